"""What `moontune doctor` finds, in the shape in which the trainer tells its part to the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and somebody should know."""
    FAULT = "fault"
    """Something will not work until it is mended."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        check: Its name, such as `gpu-memory`; stable, for programs.
        cause: What is, in a sentence for people.
        cure: What to do about it, where possible a command to paste; empty when all is well.
    """

    check: str
    level: Level
    cause: str
    cure: str = ""

    def as_json(self) -> dict[str, str]:
        """For programs."""
        return {
            "check": self.check,
            "level": self.level.value,
            "cause": self.cause,
            "cure": self.cure,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Finding:
        """Read it back.

        Raises:
            KeyError, ValueError: It is none.
        """
        return cls(
            check=str(found["check"]),
            level=Level(found["level"]),
            cause=str(found["cause"]),
            cure=str(found["cure"]),
        )


def ok(check: str, cause: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, cause=cause)


def warning(check: str, cause: str, cure: str) -> Finding:
    """It works, but."""
    return Finding(check=check, level=Level.WARNING, cause=cause, cure=cure)


def fault(check: str, cause: str, cure: str) -> Finding:
    """It does not work."""
    return Finding(check=check, level=Level.FAULT, cause=cause, cure=cure)
