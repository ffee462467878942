"""The dialogue over the socket between API and worker: who may say what, as plain headers.

    API    -> worker   {"kind": "call", "id": n, "verb": ..., "command": ..., "images": [...],
                        "request_id": ...} and the pixels of the images as blobs; the id of the
                       request that it is made for goes into the worker's log
    API    -> worker   {"kind": "cancel", "id": n}   nobody waits for this call any more
    API    -> worker   {"kind": "ping"}              say something: stats follow
    API    -> worker   {"kind": "stop"}
    worker -> API      {"kind": "loading", "text": ...}            any number, before ready
    worker -> API      {"kind": "ready", "epoch": n, "model": ..., "canary": ...} once; `canary` is
                       a digest of what it answers to a fixed question
    worker -> API      {"kind": "result", "id": n, "epoch": n, "result": ...}
    worker -> API      {"kind": "error", "id": n, "epoch": n, "error": ...}
                       with {"type", "message"} and what its class holds as error
    worker -> API      {"kind": "delta", "id": n, "epoch": n, "delta": ...}  of a streamed answer,
                       before its result
    worker -> API      {"kind": "stats", "epoch": n, "stats": ...}  now and then, after ready

Results come in the order in which work ends, not in that of the calls. Every call gets exactly one
result or error, also one that was cancelled, or the socket ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contract.codec import from_plain, to_plain
from contract.engine import (
    Answer,
    Answered,
    ExportCheckpoint,
    ExportedFile,
    MakeRollouts,
    RolloutsMade,
    StepTrained,
    TrainStep,
)
from contract.errors import EngineError, EngineFailed, RequestRefused, StateDamaged, StorageFull
from contract.framing import Message
from contract.skills import Pixels

EXIT_REFUSED = 2
"""The worker's exit status for "this cannot work as configured"; its last line says why."""

COMMANDS: dict[str, type[Any]] = {
    "make_rollouts": MakeRollouts,
    "train_step": TrainStep,
    "answer": Answer,
    "export_checkpoint": ExportCheckpoint,
    "drop": str,
}
RESULTS: dict[str, type[Any] | None] = {
    "make_rollouts": RolloutsMade,
    "train_step": StepTrained,
    "answer": Answered,
    "export_checkpoint": ExportedFile,
    "drop": None,
}


def call_message(
    call_id: int, verb: str, command: Any, images: Sequence[Pixels] = (), request_id: str = ""
) -> Message:
    """One call; the pixels of `images` travel as blobs, in order."""
    header = {
        "kind": "call",
        "id": call_id,
        "verb": verb,
        "command": to_plain(command),
        "images": [[i.height, i.width, i.digest] for i in images],
        "request_id": request_id,
    }
    return Message(header=header, blobs=[i.data for i in images])


def read_call(message: Message) -> tuple[int, str, Any, list[Pixels]]:
    """Return (id, verb, command, images) of a call."""
    header = message.header
    verb: str = header["verb"]
    images = [
        Pixels(height=height, width=width, digest=digest, data=bytes(blob))
        for (height, width, digest), blob in zip(header["images"], message.blobs, strict=True)
    ]
    return header["id"], verb, from_plain(COMMANDS[verb], header["command"]), images


def read_result(verb: str, message: Message) -> Any:
    """Return the typed result of a call.

    Raises:
        EngineError: The worker answered with an error.
    """
    if message.header["kind"] == "error":
        raise error_from_plain(message.header["error"])
    result_type = RESULTS[verb]
    return None if result_type is None else from_plain(result_type, message.header["result"])


def error_to_plain(error: EngineError) -> dict[str, Any]:
    """The `error` object of an error message."""
    if isinstance(error, RequestRefused):
        return {
            "type": "request_refused",
            "message": error.message,
            "code": error.code,
            "loc": list(error.loc),
        }
    if isinstance(error, StorageFull):
        return {
            "type": "storage_full",
            "message": str(error),
            "needed_bytes": error.needed_bytes,
            "free_bytes": error.free_bytes,
        }
    kind = "state_damaged" if isinstance(error, StateDamaged) else "engine_failed"
    return {"type": kind, "message": str(error)}


def error_from_plain(error: dict[str, Any]) -> EngineError:
    """The exception that an `error` object stands for."""
    if error["type"] == "request_refused":
        return RequestRefused(error["message"], code=error["code"], loc=error["loc"])
    if error["type"] == "storage_full":
        return StorageFull(
            error["message"], needed_bytes=error["needed_bytes"], free_bytes=error["free_bytes"]
        )
    kind = StateDamaged if error["type"] == "state_damaged" else EngineFailed
    return kind(error["message"])
