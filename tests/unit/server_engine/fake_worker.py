"""A worker without a model: standard library and contract, misbehaving on request.

`python fake_worker.py --fd N --epoch E [--at-start HOW]`. An `answer` call whose question begins
with the name of a trick does that; each call is served in a thread of its own.
"""

# ruff: noqa: T201 -- what a worker prints belongs to its log.
from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import sys
import threading
import time

from contract.codec import to_plain
from contract.engine import (
    Answer,
    AnswerDelta,
    Answered,
    MakeRollouts,
    ModelInfo,
    RolloutsMade,
    StepTrained,
    TrainStep,
)
from contract.errors import EngineError, EngineFailed, RequestRefused, StorageFull
from contract.framing import PREFIX, Message, decode, encode
from contract.messages import error_to_plain, read_call
from contract.skills import FinishReason, Pixels, QueryRequest
from contract.stats import EngineStats, Sample

MODEL = ModelInfo(
    name="fake",
    family="moondream3",
    digest="0" * 64,
    device="cpu",
    dtype="float32",
    num_parameters=1,
    max_context=64,
    skills=("query",),
    tunable_skills=("query",),
)


class FakeWorker:
    def __init__(self, sock: socket.socket, epoch: int) -> None:
        self.sock = sock
        self.epoch = epoch
        self.lock = threading.Lock()
        self.cancelled: list[int] = []
        self.is_cancelled = threading.Event()

    def say(self, **header: object) -> None:
        with self.lock:
            for part in encode(Message(header=header)):
                self.sock.sendall(part)

    def listen(self) -> None:
        while (prefix := self.sock.recv(PREFIX.size, socket.MSG_WAITALL)) != b"":
            header_length, body_length = PREFIX.unpack(prefix)
            header = self.sock.recv(header_length, socket.MSG_WAITALL)
            body = self.sock.recv(body_length, socket.MSG_WAITALL) if body_length else b""
            message = decode(header, body)
            if message.header["kind"] == "stop":
                print("stopped in order", flush=True)
                return
            if message.header["kind"] == "ping":
                self.say(kind="stats", epoch=self.epoch, stats=to_plain(EngineStats()))
                continue
            if message.header["kind"] == "cancel":
                self.cancelled.append(message.header["id"])
                self.is_cancelled.set()
                continue
            threading.Thread(target=self.serve, args=(message,), daemon=True).start()

    def serve(self, message: Message) -> None:
        call_id, verb, command, images = read_call(message)
        try:
            if verb == "answer":
                result = self.answer(command, call_id)
            else:
                result = RESULTS[verb](self, command, images)
        except EngineError as error:
            self.say(kind="error", id=call_id, epoch=self.epoch, error=error_to_plain(error))
        else:
            self.say(kind="result", id=call_id, epoch=self.epoch, result=to_plain(result))

    def answer(self, command: Answer, call_id: int) -> Answered:
        assert isinstance(command.request, QueryRequest)
        text = command.request.question
        trick, _, argument = text.partition(" ")
        if trick == "exit":
            os._exit(int(argument))
        elif trick == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif trick == "hang":
            self.say_delta(call_id, to_plain(AnswerDelta(text="here")))
            threading.Event().wait()
        elif trick == "wait":
            time.sleep(float(argument))
        elif trick == "hang_up":
            self.sock.shutdown(socket.SHUT_RDWR)
            threading.Event().wait()
        elif trick == "garbage":
            self.sock.sendall(b"GARBAGE" * 10)
            threading.Event().wait()
        elif trick == "nonsense":
            self.say(**NONSENSE[argument])
            threading.Event().wait()
        elif trick == "stale":
            stale = dataclasses.replace(_answered("stale"), input_tokens=7)
            for call_id in range(1, 10):
                self.say(kind="result", id=call_id, epoch=self.epoch - 1, result=to_plain(stale))
            self.say(kind="result", id=10**6, epoch=self.epoch, result=to_plain(stale))
        elif trick == "stream":
            for word in argument.split("|"):
                self.say_delta(call_id, to_plain(AnswerDelta(text=word)))
            return _answered(argument.replace("|", ""))
        elif trick == "stream_nonsense":
            self.say_delta(call_id, {"txt": "?"})
            threading.Event().wait()
        elif trick == "stream_others":
            self.say_delta(10**6, to_plain(AnswerDelta(text="nobody's")))
            self.say(kind="delta", id=call_id, epoch=self.epoch - 1, delta={"text": "stale"})
        elif trick == "count":
            sample = Sample(name="moontune_rows_running", labels=(), value=float(argument))
            self.say(kind="stats", epoch=self.epoch, stats=to_plain(EngineStats(samples=(sample,))))
        elif trick == "hang_until_cancelled":
            self.say_delta(call_id, to_plain(AnswerDelta(text="here")))
            self.is_cancelled.wait()
            raise EngineFailed("The call was cancelled.")
        elif trick == "cancelled":
            self.is_cancelled.wait()
            return _answered(str(self.cancelled))
        elif trick == "cancelled_so_far":
            return _answered(str(self.cancelled))
        elif trick == "refuse":
            raise RequestRefused("Too much.", code="batch_too_large", loc=("groups", 3))
        elif trick == "full":
            raise StorageFull("No space.")
        elif trick == "fail":
            raise EngineFailed("A fault.")
        elif trick == "unreadable":
            return Answered(**{**vars(_answered("")), "input_tokens": "seven"})
        elif trick == "pid":
            return _answered(str(os.getpid()))
        return _answered(text)

    def say_delta(self, call_id: int, delta: object) -> None:
        self.say(kind="delta", id=call_id, epoch=self.epoch, delta=delta)

    def make_rollouts(self, command: MakeRollouts, images: list[Pixels]) -> RolloutsMade:
        return RolloutsMade(rollouts=(), rewards=tuple(i.data[-1] / 1 for i in images))

    def train_step(self, command: TrainStep, images: list[Pixels]) -> StepTrained:
        return StepTrained(
            applied=False,
            skip_reason=None,
            kl=None,
            router_kl=None,
            grad_norm=None,
            reward_mean=None,
            reward_std=None,
            sft_loss=None,
            extra={"num_bytes": sum(len(i.data) for i in images)},
            weights=None,
            optimizer=None,
        )

    def drop(self, finetune_id: str, images: list[Pixels]) -> None:
        return None


RESULTS = {
    "make_rollouts": FakeWorker.make_rollouts,
    "train_step": FakeWorker.train_step,
    "drop": FakeWorker.drop,
}
NONSENSE: dict[str, dict[str, object]] = {
    "no_kind": {"hello": "there"},
    "other_kind": {"kind": "greeting", "epoch": 1},
}


def _answered(text: str) -> Answered:
    return Answered(
        output={"answer": text},
        finish_reason=FinishReason.STOP,
        input_tokens=1,
        output_tokens=1,
        prefill_time_ms=0.0,
        decode_time_ms=0.0,
        ttft_ms=0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--at-start", default="")
    options = parser.parse_args()
    worker = FakeWorker(socket.socket(fileno=options.fd), options.epoch)
    if options.at_start.startswith("exit"):
        print("first line")
        print("The folder 'x' holds no model.", file=sys.stderr)
        sys.exit(int(options.at_start.removeprefix("exit")))
    if options.at_start == "only_second" and options.epoch < 2:
        sys.exit(3)
    if options.at_start == "mute":
        threading.Event().wait()
    worker.say(kind="loading", text="loading shard 1 of 1")
    canary = ""
    if options.at_start == "other_canary":
        canary = str(options.epoch)
    elif options.at_start == "odd_first_canary":
        canary = "odd" if options.epoch == 1 else "right"
    if options.at_start == "wrong_epoch":
        worker.say(kind="ready", epoch=options.epoch + 1, model=to_plain(MODEL))
    else:
        worker.say(kind="ready", epoch=options.epoch, model=to_plain(MODEL), canary=canary)
    if options.at_start == "deaf" or (options.at_start == "deaf_once" and options.epoch == 1):
        threading.Event().wait()
    worker.listen()


if __name__ == "__main__":
    main()
