"""The worker's loop: take a call from the socket, run its verb, answer. Read this file first.

    API  --call-->  read_message  -->  TrainerEngine.<verb>  --result or error-->  API

One call at a time, in order of arrival. The process ends when the API's end of the socket does.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import torch

from contract.codec import to_plain
from contract.errors import EngineError, EngineFailed, RequestRefused
from contract.framing import PREFIX, Message, decode, encode
from contract.messages import COMMANDS, error_to_plain, read_call
from trainer.engine import TrainerEngine

log = logging.getLogger(__name__)


class Connection:
    """Blocking messages over our end of the socket pair."""

    def __init__(self, sock: socket.socket):
        self._sock = sock

    def send(self, header: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            ValueError: The header holds NaN or infinity; nothing was sent.
        """
        for part in encode(Message(header=header)):
            self._sock.sendall(part)

    def receive(self) -> Message | None:
        """The next message, or None when the API has closed its end."""
        prefix = self._read(PREFIX.size)
        if prefix is None:
            return None
        header_length, body_length = PREFIX.unpack(prefix)
        header = self._read(header_length)
        body = self._read(body_length)
        if header is None or body is None:
            return None
        return decode(bytes(header), body)

    def _read(self, length: int) -> memoryview | None:
        buffer = memoryview(bytearray(length))
        filled = 0
        while filled < length:
            received = self._sock.recv_into(buffer[filled:])
            if received == 0:
                return None
            filled += received
        return buffer


def run_worker(connection: Connection, engine: TrainerEngine, *, epoch: int) -> None:
    """Say that the model is ready, then serve calls until told to stop or left alone."""
    connection.send({"kind": "ready", "epoch": epoch, "model": to_plain(engine.describe())})
    while True:
        message = connection.receive()
        if message is None or message.header["kind"] == "stop":
            return
        call_id, verb = message.header["id"], message.header["verb"]
        answer = _answer(engine, message)
        try:
            connection.send({"id": call_id, "epoch": epoch, **answer})
        except ValueError:
            log.exception("%s gave a result that JSON cannot carry", verb)
            failed = EngineFailed(
                f"The result of {verb} holds numbers that are not finite; the weights that were "
                "asked may have diverged."
            )
            connection.send({"id": call_id, "epoch": epoch, **_error(failed)})


def _answer(engine: TrainerEngine, message: Message) -> dict[str, Any]:
    """Run one call; every error becomes an answer, so that the loop goes on."""
    try:
        return {"kind": "result", "result": to_plain(_run(engine, message))}
    except EngineError as error:
        return _error(error)
    except torch.OutOfMemoryError:
        engine.release_memory()
        return _error(
            RequestRefused(
                "This call does not fit the accelerator's memory; send fewer groups or rollouts "
                "at once.",
                code="batch_too_large",
            )
        )
    except Exception as error:
        log.exception("%s failed", message.header["verb"])
        return _error(EngineFailed(f"{type(error).__name__}: {error}"))


def _error(error: EngineError) -> dict[str, Any]:
    return {"kind": "error", "error": error_to_plain(error)}


def _run(engine: TrainerEngine, message: Message) -> Any:
    if message.header["verb"] not in COMMANDS:
        raise EngineFailed(f"the worker does not know the verb {message.header['verb']}")
    _, verb, command, images = read_call(message)
    match verb:
        case "make_rollouts":
            return engine.make_rollouts(command, images)
        case "train_step":
            return engine.train_step(command, images)
        case "answer":
            return engine.answer(command, images)
        case "export_checkpoint":
            return engine.export_checkpoint(command)
        case "drop":
            return engine.drop(command)
        case _:
            raise AssertionError(f"{verb} is a verb of the contract without a line here")
