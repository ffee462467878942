"""Framing of streams, with a clock of our own: what is sent when, and what after silence."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contract.engine import AnswerDelta, Answered
from contract.skills import FinishReason
from server.api.answer_events import TextEvents
from server.api.event_stream import KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStream, event
from server.services.growth import DivergedError, Growth

SCOPE = {"type": "http", "path": "/v1/caption", "state": {"request_id": "r"}}
HARD = '日本語 🤖👩‍👩‍👧 é \u2028 " \\ \n'
"""Several bytes, several code points, a line break of its own."""


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: the time that it would have slept has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class FakeClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = _Selector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(story: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
        runner.run(story())


def answered(caption: str) -> Answered:
    return Answered(
        output={"caption": caption},
        finish_reason=FinishReason.STOP,
        input_tokens=1,
        output_tokens=1,
        prefill_time_ms=1.0,
        decode_time_ms=1.0,
        ttft_ms=1.0,
    )


class Sent:
    """Who reads a stream: every block with the time at which it came."""

    def __init__(self) -> None:
        self.blocks: list[tuple[float, bytes]] = []

    async def receive(self) -> Any:
        raise AssertionError("a stream asks nothing of its reader")

    async def send(self, message: Any) -> None:
        if message.get("body"):
            self.blocks.append((asyncio.get_running_loop().time(), message["body"]))


async def streamed(work: Callable[[Growth], Awaitable[Answered]]) -> list[tuple[float, bytes]]:
    growth, sent = Growth(), Sent()
    form = TextEvents(request_id="r", account_id="a")
    await EventStream(lambda: work(growth), growth, form)(SCOPE, sent.receive, sent.send)
    return sent.blocks


def test_silence_is_filled_with_comments_and_counted_from_what_was_sent_last() -> None:
    async def work(growth: Growth) -> Answered:
        await asyncio.sleep(100)  # nothing was told: there is no stream to keep alive
        growth.add(AnswerDelta(text="a"))
        await asyncio.sleep(14)
        growth.add(AnswerDelta(text="b"))
        await asyncio.sleep(44)
        return answered("ab")

    async def story() -> None:
        blocks = await streamed(work)
        assert [at for at, _ in blocks] == pytest.approx([100, 114, 129, 144, 158])
        assert [block == KEEP_ALIVE for _, block in blocks] == [False, False, True, True, False]
        assert KEEP_ALIVE.startswith(b":")
        assert KEEP_ALIVE.endswith(b"\n\n")
        assert KEEP_ALIVE_SECONDS == 15

    run(story)


def test_a_thought_that_is_not_sent_is_silence() -> None:
    async def work(growth: Growth) -> Answered:
        for _ in range(40):
            growth.add(AnswerDelta(reasoning="hm "))
            await asyncio.sleep(1)
        return answered("so")

    async def story() -> None:
        blocks = await streamed(work)
        assert [at for at, block in blocks if block == KEEP_ALIVE] == pytest.approx([15, 30])

    run(story)


def test_events_are_one_line_each_whatever_the_text() -> None:
    async def work(growth: Growth) -> Answered:
        for character in HARD:
            growth.add(AnswerDelta(text=character))
            await asyncio.sleep(1)
        return answered(HARD)

    async def story() -> None:
        blocks = [block for _, block in await streamed(work)]
        assert len(blocks) == len(HARD) + 1
        texts = []
        for block in blocks:
            assert block.startswith(b"data: ")
            assert block.endswith(b"\n\n")
            assert len(block.splitlines()) == 2
            assert len(block.decode().splitlines()) == 2  # as Python's own idea of lines has it
            texts.append(json.loads(block.removeprefix(b"data: "))["chunk"])
        assert "".join(texts) == HARD

    run(story)


def test_what_was_not_told_is_sent_before_the_last_event() -> None:
    async def work(growth: Growth) -> Answered:
        growth.add(AnswerDelta(text="to"))
        await asyncio.sleep(1)
        return answered("told")

    async def story() -> None:
        first, (_, rest) = await streamed(work)
        assert b'"chunk":"to"' in first[1]
        assert rest.startswith(event({"chunk": "ld", "completed": False, "request_id": "r"}))
        assert b'"caption":"told"' in rest

    run(story)


def test_a_growth_begins_again_only_while_nothing_of_it_was_sent() -> None:
    growth = Growth(has_reasoning=True)
    assert growth.take() is None
    growth.add(AnswerDelta(reasoning="hm"))
    growth.add(AnswerDelta(text="x"))
    assert growth.start_over()
    assert growth.take() is None
    growth.add(AnswerDelta(reasoning="hm"))
    assert growth.take() == AnswerDelta(reasoning="hm")
    assert not growth.start_over()
    growth.add(AnswerDelta(text="y"))
    growth.add(AnswerDelta(text="z"))
    assert growth.take() == AnswerDelta(text="yz")


@pytest.mark.parametrize(
    "output",
    [
        {"path": "N", "bbox": {"x_min": 0.0}},
        {"path": "", "bbox": {"x_min": 0.0}},
        {"path": "M 0", "bbox": {"x_min": 0.5}},
        {"path": "M 0", "bbox": None},
    ],
)
def test_a_finished_answer_continues_what_was_told(output: dict[str, Any]) -> None:
    growth = Growth()
    growth.add(AnswerDelta(bbox={"x_min": 0.0}))
    growth.add(AnswerDelta(text="M"))
    with pytest.raises(DivergedError):
        growth.complete(output)
    growth.complete({"path": "M 0", "bbox": {"x_min": 0.0}})
    assert growth.take() == AnswerDelta(text="M 0", bbox={"x_min": 0.0})
