"""What calls used, in hours: the words of the usage ledger."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MAX_MS = 1 << 52
"""Later than anybody asks for, and small enough for every database."""

MAX_REFUSALS = 1000
"""Kept of each account."""


class By(StrEnum):
    """What the sums are of."""

    HOUR = "hour"
    DAY = "day"
    FINETUNE = "finetune"
    KEY = "key"

    @property
    def is_time(self) -> bool:
        """Whether each entry is of a time."""
        return self in (By.HOUR, By.DAY)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What some calls used together.

    Attributes:
        requests: Calls that were answered, whatever the status.
        images: Different pictures of each call that the worker worked on to its end.
        prompt_tokens: Positions of prompts with their pictures, once a call; not of train steps.
        generated_tokens: Tokens that were drawn, of all rollouts of a call.
        training_tokens: Tokens that train steps learned from.
        steps: Committed train steps, also those that changed nothing.
        compute_ms: How long the worker had the calls; those that it had at once count in full.
    """

    requests: int = 0
    images: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    training_tokens: int = 0
    steps: int = 0
    compute_ms: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, kw_only=True)
class Payer:
    """Who used something, and for what; empty texts are no finetune and no key."""

    account_id: str
    finetune_id: str = ""
    key_id: str = ""


@dataclass(frozen=True, kw_only=True)
class HourlyUsage:
    """What a payer used in the hour that begins then."""

    payer: Payer
    start_at_ms: int
    usage: Usage


def hour_of(at_ms: int) -> int:
    """Return when the hour of a moment began."""
    return at_ms - at_ms % HOUR_MS
