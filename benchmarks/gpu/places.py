"""The bundled tiny model at a place (a device and a dtype), and what it is asked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import cast

import torch

from contract.engine import AdapterRef, FileRef
from contract.skills import Pixels, Target, TunableRequest
from tiny.evaluate import as_pixels
from tiny.packing import as_contract
from tiny.scenes import heldout_example
from trainer.adapters.bank import AdapterBank
from trainer.adapters.lora import Adapter
from trainer.loading import LoadedModel, load
from trainer.storage import write_tensors

ROOT = Path(__file__).parent.parent.parent
TINY_CHECKPOINT = ROOT / "tiny" / "checkpoint"
NUM_SCENES = 20
TUNABLE = ("query", "point", "detect")
TINY_RANK = 8

Place = tuple[str, str]
"""Device and dtype."""


@cache
def tiny_model(place: Place) -> LoadedModel:
    return load(TINY_CHECKPOINT, name="tiny", device=place[0], dtype=place[1])


@cache
def tasks() -> tuple[tuple[Pixels, TunableRequest, Target], ...]:
    """A query, a point and a detect task about each of the held-out scenes."""
    found: list[tuple[Pixels, TunableRequest, Target]] = []
    for index in range(NUM_SCENES):
        for skill in TUNABLE:
            example = heldout_example(index, num_tasks=1, weights={skill: 1.0})
            request, target = as_contract(example.tasks[0])
            image = as_pixels(example.scene)
            found.append((image, cast("TunableRequest", request), cast("Target", target)))
    return tuple(found)


def start_weights(directory: Path) -> FileRef:
    """The file of an adapter of which every factor matters; a fresh one has zeros."""
    adapter = Adapter.fresh(tiny_model(("cpu", "float32")).model.config.text, TINY_RANK, seed=1)
    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: 0.05 * torch.randn(tensor.shape, generator=generator)
        if name.endswith("_b")
        else tensor
        for name, tensor in adapter.tensors.items()
    }
    return write_tensors(directory / "start.weights", tensors, {})


def adapter_at(place: Place, start: FileRef) -> Adapter:
    model = tiny_model(place).model
    reference = AdapterRef(finetune_id="start", step=0, rank=TINY_RANK, seed=1, weights=start)
    return AdapterBank(model.config.text, model.text.wte.device).adapter(reference)
