"""Rules of names, ranks, sizes and coordinates; pure functions.

Source: http-api.md sections 6, 7.1, 8, 11.1 and 17.2.
"""

from __future__ import annotations

import re

MAX_NAME_LENGTH = 128
MAX_ROLLOUTS = 16
MAX_SPATIAL_REFS = 64
MAX_GROUND_TRUTH_ENTRIES = 512
MAX_METRICS_PER_CALL = 100
MAX_EXAMPLES = 2**16  # of a step, whatever is configured
MAX_STEP = 2**53 - 1  # exact in JSON readers that know doubles only, and fits a database integer
DEFAULT_LR = 2e-4

COORDINATE_SLACK = 0.01
"""Coordinates this far outside 0-1 are rounding; farther out they are pixels sent by mistake."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METRIC_NAME = re.compile(r"[A-Za-z0-9_./@:+-]{1,128}")
_RESERVED_METRICS = ("sys/", "usr/")


def is_finetune_name(name: str) -> bool:
    """Say whether a finetune may be called so."""
    return _NAME.fullmatch(name) is not None


def is_adapter_name(name: str) -> bool:
    """Say whether an adapter may be called so: the wider rule of December 2025."""
    return 1 <= len(name) <= MAX_NAME_LENGTH and name.isprintable()


def propose_finetune_name(name: str) -> str:
    """Return an allowed name close to a refused one.

    >>> propose_finetune_name("my first run")
    'my-first-run'
    """
    proposal = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")[:MAX_NAME_LENGTH]
    return proposal or "my-finetune"


def metric_name_fault(name: str) -> str | None:
    """Return what is wrong with the name of a user's metric, or None."""
    if not _METRIC_NAME.fullmatch(name):
        return "A metric name has 1-128 characters of A-Z a-z 0-9 _ . / @ : + -"
    if name.startswith(_RESERVED_METRICS):
        return "Names that begin with sys/ or usr/ are reserved; choose another prefix"
    return None


def clamp_coordinate(value: float) -> float:
    """Return a coordinate within 0-1.

    Raises:
        ValueError: It is farther outside than rounding explains.
    """
    if not -COORDINATE_SLACK <= value <= 1 + COORDINATE_SLACK:
        raise ValueError(
            "Coordinates are fractions of the image between 0 and 1; divide pixels by its size"
        )
    return min(max(value, 0.0), 1.0)
