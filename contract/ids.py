"""Identifiers on the wire: finetune ids and the strings that name a saved checkpoint.

Parse and format live here and nowhere else. Source: http-api.md sections 6, 13.1 and 17.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MODEL_PREFIX = "moondream3-preview"

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_CHECKPOINT = re.compile(
    r"(?:.*/)?(?P<finetune_id>[0-9A-Za-z]{26})@(?P<step>[0-9]{1,12})", re.DOTALL
)
_NUMBERED = re.compile(
    r"(?:(?P<again>[0-9A-Za-z]{26})/)?(?P<finetune_id>[0-9A-Za-z]{26})"
    r"/chk_(?P<number>[0-9]{3}|[1-9][0-9]{3,11})"
)


def parse_ulid(text: str) -> str | None:
    """Return the ULID in upper case, or None when the text is not one."""
    upper = text.upper()
    return upper if _ULID.fullmatch(upper) else None


@dataclass(frozen=True, kw_only=True)
class CheckpointName:
    """The weights of a finetune at a step, as in `moondream3-preview/01HXYZ...@40`."""

    finetune_id: str
    step: int

    def __str__(self) -> str:
        return f"{MODEL_PREFIX}/{self.finetune_id}@{self.step}"

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """Read `{prefix}/{ULID}@{step}`; the prefix may be absent and is not compared."""
        match = _CHECKPOINT.fullmatch(text)
        if match is None:
            return None
        finetune_id = parse_ulid(match["finetune_id"])
        if finetune_id is None:
            return None
        return cls(finetune_id=finetune_id, step=int(match["step"]))


@dataclass(frozen=True, kw_only=True)
class NumberedCheckpoint:
    """The same by its number among the saves of a finetune, as in `01HXYZ.../chk_001`.

    The form of December 2025.
    """

    finetune_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.finetune_id}/chk_{self.number:03d}"

    @classmethod
    def parse(cls, text: str) -> NumberedCheckpoint | None:
        """Read `{ULID}/chk_{number}`; the old text can be read as `{ULID}/{ULID}/chk_{number}`."""
        match = _NUMBERED.fullmatch(text)
        if match is None:
            return None
        finetune_id = parse_ulid(match["finetune_id"])
        if finetune_id is None or parse_ulid(match["again"] or finetune_id) != finetune_id:
            return None
        return cls(finetune_id=finetune_id, number=int(match["number"]))
