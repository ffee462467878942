"""The worker's loop over a real socket pair: results, typed errors, and that it goes on."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from contract.codec import from_plain
from contract.engine import (
    Answer,
    AnswerDelta,
    Answered,
    MakeRollouts,
    ModelInfo,
    RolloutsMade,
    StepTrained,
)
from contract.errors import EngineError, EngineFailed, RequestRefused, StorageFull
from contract.framing import Message, NotFiniteError, encode
from contract.groups import RLGroup
from contract.messages import call_message, read_result
from contract.skills import QueryRequest, Settings
from contract.stats import EngineStats
from tests.micro import DETECT, QUERY, adapter_ref, loaded_micro, pictures, returned, train_command
from trainer import worker
from trainer.adapters.lora import Adapter
from trainer.engine import TrainerEngine
from trainer.storage import write_tensors
from trainer.worker import Connection, run_worker

ANSWER = Answer(
    adapter=None, request=QUERY, settings=Settings(temperature=0.0, max_tokens=3), seed=1
)
ROLLOUTS = MakeRollouts(
    adapter=adapter_ref(),
    request=DETECT,
    settings=Settings(temperature=1.0, max_objects=2),
    num_rollouts=4,
    seed=3,
)


class Caller:
    """The API's side of the dialogue."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._connection = Connection(sock)
        self._next_id = 40

    def send(self, message: Message) -> None:
        for part in encode(message):
            self.sock.sendall(part)

    def receive(self) -> Message:
        """The next message that is not about counters."""
        while True:
            message = self._connection.receive()
            assert message is not None
            if message.header["kind"] != "stats":
                return message

    def call(self, verb: str, command: Any) -> Any:
        self._next_id += 1
        self.send(call_message(self._next_id, verb, command, pictures()))
        message = self.receive()
        assert message.header["id"] == self._next_id
        assert message.header["epoch"] == 6
        return read_result(verb, message)


@pytest.fixture
def engine() -> TrainerEngine:
    return TrainerEngine(loaded_micro())


@pytest.fixture
def caller(engine: TrainerEngine) -> Iterator[Caller]:
    mine, theirs = socket.socketpair()
    mine.settimeout(30)
    thread = threading.Thread(
        target=run_worker, args=(Connection(theirs), engine), kwargs={"epoch": 6}
    )
    thread.start()
    caller = Caller(mine)
    ready = caller.receive().header
    assert (ready["kind"], ready["epoch"]) == ("ready", 6)
    assert from_plain(ModelInfo, ready["model"]) == engine.describe()
    yield caller
    mine.close()
    thread.join(timeout=30)
    assert not thread.is_alive()  # the loop ends with the socket
    theirs.close()


def test_every_verb_gives_its_typed_result(caller, engine, tmp_path):
    answered = caller.call("answer", ANSWER)
    assert isinstance(answered, Answered)
    assert answered.output == engine.answer(ANSWER, pictures()).output
    made = caller.call("make_rollouts", ROLLOUTS)
    assert isinstance(made, RolloutsMade)
    assert made == engine.make_rollouts(ROLLOUTS, pictures())
    step = caller.call(
        "train_step",
        replace(
            train_command([rl(made)]),
            weights_path=str(tmp_path / "w"),
            optimizer_path=str(tmp_path / "o"),
        ),
    )
    assert isinstance(step, StepTrained)
    assert step.applied
    assert caller.call("drop", "F" * 26) is None


def rl(made: RolloutsMade):
    return RLGroup(
        request=DETECT,
        rollouts=tuple(map(returned, made.rollouts)),
        rewards=tuple(float(i) for i in range(len(made.rollouts))),
    )


def test_a_refusal_keeps_its_words_code_and_place(caller):
    with pytest.raises(RequestRefused, match="positions") as refused:
        caller.call("answer", replace(ANSWER, request=QueryRequest(question="why " * 200)))
    assert refused.value.loc == ("question",)
    assert refused.value.code == "validation_error"
    caller.call("answer", ANSWER)


@pytest.mark.parametrize(
    ("raised", "type_", "words"),
    [
        (ValueError("odd"), EngineFailed, "ValueError: odd"),
        (StorageFull("no space"), StorageFull, "no space"),
        (EngineFailed("damaged"), EngineFailed, "damaged"),
        (torch.OutOfMemoryError("big"), RequestRefused, "fewer rollouts"),
        (RequestRefused("bad", code="batch_too_large", loc=("groups", 1)), RequestRefused, "bad"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failing_call_is_answered_by_type_and_the_next_one_works(
    caller, engine, monkeypatch, raised, type_, words
):
    with monkeypatch.context() as patched:

        def fail(*_: Any) -> Any:
            raise raised

        patched.setattr(engine, "_begin_answer", fail)
        with pytest.raises(type_, match=words) as error:
            caller.call("answer", ANSWER)
        if isinstance(raised, RequestRefused | torch.OutOfMemoryError):
            assert error.value.code == "batch_too_large"
    assert isinstance(caller.call("answer", ANSWER), Answered)


def test_a_call_that_fails_is_logged_with_whose_it_was(caller, engine, monkeypatch, caplog):
    def fail(*_: Any) -> Any:
        raise ValueError("odd")

    monkeypatch.setattr(engine, "_begin_rollouts", fail)
    caller.send(call_message(1, "make_rollouts", ROLLOUTS, pictures(), "a-request"))
    assert caller.receive().header["kind"] == "error"
    (record,) = [record for record in caplog.records if record.getMessage() == "call_failed"]
    assert record.moontune_facts == {
        "verb": "make_rollouts",
        "request_id": "a-request",
        "finetune_id": ROLLOUTS.adapter.finetune_id,
        "step": ROLLOUTS.adapter.step,
    }
    assert record.exc_info[0] is ValueError


def test_an_unknown_verb_is_an_error_and_the_loop_goes_on(caller):
    header = {"kind": "call", "id": 7, "verb": "sing", "command": None, "images": []}
    caller.send(Message(header=header))
    with pytest.raises(EngineFailed, match="verb sing"):
        read_result("drop", caller.receive())
    caller.call("answer", ANSWER)


def test_a_command_of_the_wrong_shape_is_an_error_and_the_loop_goes_on(caller):
    header = {"kind": "call", "id": 8, "verb": "answer", "command": {"seed": "x"}, "images": []}
    caller.send(Message(header=header))
    with pytest.raises(EngineFailed, match="TypeError"):
        read_result("answer", caller.receive())
    caller.call("answer", ANSWER)


def test_a_result_that_json_cannot_carry_is_an_error_and_the_loop_goes_on(caller, tmp_path):
    # weights that have diverged give log-probabilities that are not numbers
    tensors = Adapter.fresh(loaded_micro().model.config.text, 8, seed=1).tensors
    tensors["text_lora.dense.0.down_b"].fill_(math.nan)
    weights = write_tensors(tmp_path / "w", tensors, {})
    with pytest.raises(RequestRefused, match="not finite: training has diverged"):
        caller.call("make_rollouts", replace(ROLLOUTS, adapter=adapter_ref(weights=weights)))
    caller.call("make_rollouts", ROLLOUTS)


@pytest.mark.parametrize(
    "trouble", [ValueError("over 5 bytes"), NotFiniteError("over 5 bytes")], ids=type
)
def test_a_result_that_cannot_be_told_and_was_not_trained_is_our_fault_and_the_loop_goes_on(
    caller, monkeypatch, trouble
):
    def failing(message: Message) -> list[bytes | memoryview]:
        if message.header["kind"] == "result":
            raise trouble
        return encode(message)

    with monkeypatch.context() as patched:
        patched.setattr(worker, "encode", failing)
        with pytest.raises(EngineFailed, match="make_rollouts cannot be told: over 5 bytes"):
            caller.call("make_rollouts", ROLLOUTS)
    caller.call("make_rollouts", ROLLOUTS)


def test_calls_sent_together_are_each_answered_once(caller, engine):
    expected = engine.answer(ANSWER, ()).output
    for number in (1, 2, 3):
        caller.send(call_message(number, "answer", ANSWER, ()))
    found = {}
    for _ in range(3):
        message = caller.receive()
        found[message.header["id"]] = read_result("answer", message).output
    assert found == dict.fromkeys((1, 2, 3), expected)


def test_a_stop_ends_the_loop(caller):
    caller.send(Message(header={"kind": "stop"}))


def test_half_a_message_and_then_the_end_ends_the_loop(caller):
    part = encode(call_message(1, "answer", ANSWER, pictures()))[0]
    caller.sock.sendall(bytes(part)[:5])


def test_errors_are_engine_errors():
    assert issubclass(RequestRefused, EngineError)


def test_calls_are_in_hand_together_and_the_short_one_is_answered_first(caller):
    long = replace(ROLLOUTS, request=QUERY, settings=Settings(temperature=1.0, max_tokens=100))
    caller.send(call_message(1, "make_rollouts", replace(long, num_rollouts=16), ()))
    caller.send(call_message(2, "answer", ANSWER, ()))
    assert [caller.receive().header["id"] for _ in range(2)] == [2, 1]


def test_a_cancelled_call_is_answered_with_an_error_and_others_go_on(caller):
    long = replace(ANSWER, settings=Settings(temperature=1.0, max_tokens=100), seed=11)
    caller.send(call_message(1, "answer", long, ()))
    caller.send(Message(header={"kind": "cancel", "id": 1}))
    caller.send(Message(header={"kind": "cancel", "id": 99}))  # of nobody
    message = caller.receive()
    assert message.header["id"] == 1
    with pytest.raises(EngineFailed, match="cancelled"):
        read_result("answer", message)
    caller.call("answer", ANSWER)


def test_what_a_streamed_answer_gains_comes_before_its_result(caller):
    warm = Settings(temperature=1.0, max_tokens=20)
    asked = replace(ANSWER, settings=warm, seed=2, is_streamed=True)
    caller.send(call_message(1, "answer", asked, ()))
    deltas: list[AnswerDelta] = []
    while (message := caller.receive()).header["kind"] == "delta":
        assert (message.header["id"], message.header["epoch"]) == (1, 6)
        deltas.append(from_plain(AnswerDelta, message.header["delta"]))
    answered = read_result("answer", message)
    assert deltas
    assert "".join(delta.text for delta in deltas) == answered.output["answer"]


def test_counters_are_told_when_work_has_ended(caller):
    caller.call("answer", ANSWER)
    while True:
        message = caller._connection.receive()
        assert message is not None
        assert message.header["kind"] == "stats"
        stats = from_plain(EngineStats, message.header["stats"])
        found = {(sample.name, *sample.labels): sample.value for sample in stats.samples}
        if found.get(("moontune_sampled_tokens_total", "inference", "base")):
            break


def test_a_stop_lets_what_is_in_hand_end_first(caller):
    caller.send(call_message(1, "make_rollouts", ROLLOUTS, pictures()))
    caller.send(Message(header={"kind": "stop"}))
    assert isinstance(read_result("make_rollouts", caller.receive()), RolloutsMade)


def test_a_lost_device_ends_the_loop(engine, monkeypatch):
    """The process dies with it, and the next one finds a device again."""

    def lose(*_: Any) -> Any:
        raise torch.AcceleratorError("lost")

    monkeypatch.setattr(engine._sampler._decoder, "tick", lose)
    mine, theirs = socket.socketpair()
    with mine, theirs:
        Caller(mine).send(call_message(1, "answer", ANSWER, ()))
        with pytest.raises(torch.AcceleratorError, match="lost"):
            run_worker(Connection(theirs), engine, epoch=6)
