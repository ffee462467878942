"""What a streamed answer gained and nobody has sent yet.

The engine adds, whoever sends takes. What comes while a reader is slow is joined, so that never
more is held than the answer itself, and the engine never waits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from contract.engine import AnswerDelta

_STREAMED_FIELDS = ("answer", "caption", "path")
"""Where the text of a delta stands in the finished output; it has one of them."""


class DivergedError(Exception):
    """The finished answer is not what was told of it; what was sent cannot be taken back."""


class Growth:
    """One answer while it grows.

    Args:
        has_reasoning: Whether the thought is sent, too, and not only the answer.
    """

    def __init__(self, *, has_reasoning: bool = False):
        self._has_reasoning = has_reasoning
        self._text = ""
        self._reasoning = ""
        self._bbox: dict[str, float] | None = None
        self._num_sent = 0
        self._num_reasoning_sent = 0
        self._is_box_sent = False
        self._changed = asyncio.Event()

    def add(self, delta: AnswerDelta) -> None:
        """Take note of what the answer gained."""
        self._text += delta.text
        self._reasoning += delta.reasoning if self._has_reasoning else ""
        self._bbox = delta.bbox or self._bbox
        self.wake()

    def wake(self) -> None:
        """End the present wait, or the next one."""
        self._changed.set()

    async def changed(self, *, within: float | None = None) -> None:
        """Wait until something was added, or `wake` called, since the last wait.

        Args:
            within: Seconds, after which the wait ends as well; None: however long it takes.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()
        self._changed.clear()

    def take(self) -> AnswerDelta | None:
        """What is to be sent now, which from here on counts as sent; None: nothing."""
        delta = AnswerDelta(
            text=self._text[self._num_sent :],
            reasoning=self._reasoning[self._num_reasoning_sent :],
            bbox=None if self._is_box_sent else self._bbox,
        )
        if delta == AnswerDelta():
            return None
        self._num_sent, self._num_reasoning_sent = len(self._text), len(self._reasoning)
        self._is_box_sent = self._is_box_sent or delta.bbox is not None
        return delta

    def start_over(self) -> bool:
        """The answer is begun again: forget what was told, unless some of it was sent.

        Returns:
            Whether that is possible.
        """
        if self._num_sent or self._num_reasoning_sent or self._is_box_sent:
            return False
        self._text, self._reasoning, self._bbox = "", "", None
        return True

    def complete(self, output: dict[str, Any]) -> None:
        """Add what a finished output has beyond what was told.

        Raises:
            DivergedError: It is not the continuation of it.
        """
        text = next(output[name] for name in _STREAMED_FIELDS if name in output)
        thought = output.get("reasoning", {}).get("text", "") if self._has_reasoning else ""
        bbox = output.get("bbox")
        is_same_box = self._bbox in (None, bbox)
        if not (
            text.startswith(self._text) and thought.startswith(self._reasoning) and is_same_box
        ):
            raise DivergedError
        self._text, self._reasoning, self._bbox = text, thought, bbox
