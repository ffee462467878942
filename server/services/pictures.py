"""The pictures of the calls under way: measured on arrival, decoded when it is their call's turn.

A picture stays in its body until its call has its turn; then its pixels take a share of a budget
until the call ends. Train steps, answers and batches have a budget each: a step that waits with its
pixels for the step before it keeps nobody else waiting.

    with pictures.of(order.images, WorkClass.ROLLOUTS) as own:     # keeps the bodies
        await own.measure(within=...)                              # refuses what is no picture
        ...                                                        # waits for the turn
        async with own.decoded(within=...) as images:
            ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

from contract.skills import Pixels
from contract.work import WorkClass
from server.bodies.store import BodyStore
from server.budget import Budget
from server.domain.errors import (
    BatchTooLargeError,
    ImageDecodeError,
    ImageTooLargeError,
    ImageUrlSchemeError,
    OverloadedError,
)
from server.services.images import ImageDecoder, ImageUrl

T = TypeVar("T")

BEGINNING_CHARACTERS = 256 << 10
"""Of a large picture, this much is read for its size, which saves most of the work."""


class Pictures:
    """All pictures of one application.

    Args:
        max_step_bytes: Of the pixels of train steps together.
        max_answer_bytes: Of those of rollouts and inference together.
        max_batch_bytes: Of those of lines of batches together.
        max_call_bytes: Of the pixels of one call, which may be more than its class has together.
        max_at_once: Pictures that are read into memory as text and decoded at once, and those of
            one call that may be in the line for it.
        max_file_bytes: Of one picture; a larger one is refused by whoever reads all of it.
    """

    def __init__(
        self,
        decoder: ImageDecoder,
        bodies: BodyStore,
        *,
        max_step_bytes: int,
        max_answer_bytes: int,
        max_batch_bytes: int,
        max_call_bytes: int,
        max_at_once: int,
        max_file_bytes: int,
    ):
        self.steps = Budget(max_step_bytes)
        self.answers = Budget(max_answer_bytes)
        self.batches = Budget(max_batch_bytes)
        self.max_call_bytes = max_call_bytes
        self.max_at_once = max_at_once
        self._decoder = decoder
        self._bodies = bodies
        self._max_file_bytes = max_file_bytes
        self._at_once = asyncio.Semaphore(max_at_once)

    def of(self, images: Sequence[ImageUrl], work_class: WorkClass) -> CallPictures:
        """The pictures of one call, whose bodies are kept for the length of its `with` block."""
        own = {WorkClass.TRAINING: self.steps, WorkClass.BATCH: self.batches}
        return CallPictures(self, images, own.get(work_class, self.answers))

    def hold(self, images: Sequence[ImageUrl]) -> ExitStack:
        """Keep the bodies of pictures for the length of a `with` block."""
        return self._bodies.hold(image.url for image in images)

    async def measure(self, image: ImageUrl) -> int:
        """How many bytes the pixels of a picture will take."""
        async with self._at_once:
            begin = await self._beginning(image)
            if begin is not None:
                try:
                    return await self._decoder.measure(begin)
                except (ImageUrlSchemeError, ImageDecodeError, ImageTooLargeError):
                    pass  # its header is longer, it has to be whole to be looked at, or is refused
        return await self._with_text(image, self._decoder.measure)

    async def _beginning(self, image: ImageUrl) -> bytes | None:
        """Of the text of a large picture, enough for most headers; None if all is to be read."""
        found = self._bodies.find(image.url)
        if found is None:
            return None
        body, start, stop = found
        is_acceptable = (stop - start) * 3 // 4 <= self._max_file_bytes
        if stop - start <= 2 * BEGINNING_CHARACTERS or not is_acceptable:
            return None
        text = await asyncio.to_thread(body.read, start, BEGINNING_CHARACTERS)
        num_extra = (len(text) - text.find(b",") - 1) % 4  # base64 may end after each four
        return text[: len(text) - num_extra]

    async def decode(self, image: ImageUrl) -> Pixels:
        """The pixels of a picture."""
        return await self._with_text(image, self._decoder.decode)

    async def _with_text(self, image: ImageUrl, work: Callable[[str | bytes], Awaitable[T]]) -> T:
        """Do something with the text of a picture, which is in memory only meanwhile."""
        found = self._bodies.find(image.url)
        try:
            if found is None:
                self._refuse_far_too_long(len(image.url))
                return await work(image.url)
            body, start, stop = found
            self._refuse_far_too_long(stop - start)
            async with self._at_once:
                return await work(await asyncio.to_thread(body.read, start, stop - start))
        except (ImageUrlSchemeError, ImageDecodeError, ImageTooLargeError) as error:
            raise error.at(image.loc) from error

    def _refuse_far_too_long(self, num_characters: int) -> None:
        """Before it is read: no white space and no head make so much of a picture."""
        if num_characters * 3 // 4 > 2 * self._max_file_bytes + 1024:
            raise ImageTooLargeError(f"The image file is larger than {self._max_file_bytes} bytes.")


class CallPictures:
    """The pictures of one call."""

    def __init__(self, pictures: Pictures, images: Sequence[ImageUrl], budget: Budget):
        self.num_bytes = 0
        """Of their pixels, once they were measured."""
        self._pictures = pictures
        self._images = images
        self._budget = budget
        self._held = pictures.hold(images)

    async def measure(self, *, within: float) -> None:
        """Look at the headers; the first faulty picture, by position, refuses the request.

        Raises:
            BatchTooLargeError: Their pixels are more than one call may have.
            OverloadedError: It took longer than `within` seconds; other calls came first.
            ServiceError: One of the decoder's refusals, pointing at the place in the request.
        """
        try:
            async with asyncio.timeout(within):
                sizes = await self._each(self._pictures.measure)
        except TimeoutError:
            raise OverloadedError(
                f"{len(self._images)} pictures of the call were not looked at for {within:.0f} s,"
                " because of those of other calls. Ask again later."
            ) from None
        self.num_bytes = sum(sizes)
        if self.num_bytes > self._pictures.max_call_bytes:
            raise BatchTooLargeError(
                f"The {len(sizes)} pictures of the call need {self.num_bytes} bytes decoded (3 a"
                f" pixel); a call may have {self._pictures.max_call_bytes}. This one is the largest"
                f" with {max(sizes)}. Send fewer or smaller pictures at once.",
                loc=self._images[sizes.index(max(sizes))].loc,
            )

    @asynccontextmanager
    async def decoded(
        self, *, within: float, check: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[list[Pixels]]:
        """Have the pixels for the length of a block, once there is room for them.

        Args:
            check: Raises if they are no longer wanted then.

        Raises:
            OverloadedError: There was none for `within` seconds.
            ServiceError: A picture is damaged, as with `measure`.
        """
        budget = self._budget
        try:
            await budget.take(self.num_bytes, within=within)
        except TimeoutError:
            raise OverloadedError(
                f"The pictures of other calls take {budget.used} of {budget.limit} bytes, and"
                f" {budget.num_waiting} more calls wait for room for theirs. Ask again later."
            ) from None
        try:
            check()
            yield await self._each(self._pictures.decode)
        finally:
            budget.give_back(self.num_bytes)

    async def _each(self, work: Callable[[ImageUrl], Awaitable[T]]) -> list[T]:
        """Work on each picture, some at a time.

        Whoever comes beside a step of hundreds waits for these few, and not for all of them.
        """
        few = asyncio.Semaphore(self._pictures.max_at_once)

        async def work_in_turn(image: ImageUrl) -> T:
            async with few:
                return await work(image)

        tasks = [asyncio.ensure_future(work_in_turn(image)) for image in self._images]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        results: list[T] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._held.close()
