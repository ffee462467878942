"""What a trainer can answer other than a result; each becomes one HTTP refusal in the API."""

from __future__ import annotations

from collections.abc import Sequence


class EngineError(Exception):
    """Base of all errors of the Engine verbs."""


class RequestRefused(EngineError):
    """The request itself is at fault; sending it again cannot help.

    Attributes:
        code: A stable name of http-api.md 3.2, such as `validation_error` or `batch_too_large`.
        message: One or two sentences: what came, what was wanted, what to do.
        loc: Where in the request, such as `("groups", 3, "rollouts", 0, "answer_tokens")`.
    """

    def __init__(
        self, message: str, *, code: str = "validation_error", loc: Sequence[str | int] = ()
    ):
        super().__init__(message)
        self.message = message
        self.code = code
        self.loc = tuple(loc)


class StorageFull(EngineError):
    """The state could not be written for lack of space; nothing was changed.

    Attributes:
        needed_bytes: What would have to be free, as far as it is known.
        free_bytes: What was.
    """

    def __init__(
        self,
        message: str = "no space",
        *,
        needed_bytes: int | None = None,
        free_bytes: int | None = None,
    ):
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class WorkerUnavailable(EngineError):
    """There is no worker, or it died under this call; the call may succeed later."""


class EngineFailed(EngineError):
    """The worker met a fault of its own and answered so; nothing was changed."""


class StateDamaged(EngineFailed):
    """A stored file is missing, or holds other bytes than were written; it was not used.

    The message names the file, and is for the log.
    """
