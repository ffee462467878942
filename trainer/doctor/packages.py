"""Whether the trainer's packages are there, and torch in a version that it was made for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable

from contract.findings import Finding, fault, ok
from trainer.doctor.facts import Facts

NEEDED = (
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "PIL",
)
INSTALL = "pip install 'moontune[trainer]'"
OLDEST_TORCH, NEWEST_TORCH = (2, 11), (2, 13)
"""As in pyproject.toml."""


def check_packages(is_there: Callable[[str], bool] | None = None) -> Finding:
    """Whether everything of the extra `trainer` can be found."""
    found = is_there or (lambda name: importlib.util.find_spec(name) is not None)
    missing = [name for name in NEEDED if not found(name)]
    if missing:
        return fault("packages", f"{', '.join(missing)} cannot be found.", INSTALL)
    return ok("packages", "The trainer's packages are there.")


def check_torch(facts: Facts) -> Finding:
    """Whether torch can be imported and is of a release that is tested."""
    torch = facts.torch
    if torch.error:
        return fault(
            "torch",
            f"torch cannot be imported: {torch.error}.",
            f"{INSTALL} (and `pip install --force-reinstall torch` where it is broken)",
        )
    number = re.match(r"(\d+)\.(\d+)", torch.version)
    version = (int(number[1]), int(number[2])) if number else (0, 0)
    if not OLDEST_TORCH <= version <= NEWEST_TORCH:
        oldest, newest = (f"{major}.{minor}" for major, minor in (OLDEST_TORCH, NEWEST_TORCH))
        return fault(
            "torch",
            f"torch {torch.version} is installed; moontune works with {oldest} to {newest}.",
            f"pip install 'torch>={oldest},<{newest.split('.')[0]}.{NEWEST_TORCH[1] + 1}'",
        )
    return ok("torch", f"torch {torch.version}, for {_build(torch.cuda)}.")


def _build(cuda: str | None) -> str:
    return "the CPU" if cuda is None else f"CUDA {cuda}"
