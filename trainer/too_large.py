"""The refusal of a step that does not fit, not even one example at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from contract.errors import RequestRefused
from trainer.device_memory import device_memory
from trainer.memory import activation_bytes
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.step_plan import Example

_ASKED = re.compile(r"[Tt]ried to allocate ([0-9.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def too_large(
    model: Moondream, examples: Sequence[Example], error: BaseException
) -> RequestRefused:
    """Say which group does not fit, what it needs and what is free, as far as that is known."""
    wte, num_image_tokens = model.text.wte, model.config.vision.num_image_tokens
    largest = max(examples, key=lambda example: example.row.num_positions(num_image_tokens))
    num_positions = largest.row.num_positions(num_image_tokens)
    needed = asked_bytes(str(error))
    if needed is None:
        config = cast("MoondreamConfig", model.config)
        needed = activation_bytes(config, wte.dtype, num_positions=num_positions)
    memory = device_memory(wte.device)
    free = "" if memory is None else f", {memory.free} are free"
    return RequestRefused(
        f"Group {largest.group} does not fit the accelerator, not even one example at a time: its"
        f" {num_positions} positions need {needed} bytes more{free}. Send a shorter prompt or"
        " answer, or a smaller picture.",
        code="batch_too_large",
        loc=largest.loc,
    )


def asked_bytes(message: str) -> int | None:
    """What torch could not have, from its own words."""
    found = _ASKED.search(message)
    return None if found is None else int(float(found[1]) * _UNITS[found[2]])
