"""docs/memory.md, computed from the sizes of the published models by `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer import memory
from trainer.adapters.bank import DEFAULT_MAX_ADAPTERS
from trainer.catalog.known import KNOWN_MODELS, KnownModel
from trainer.device_memory import readable_bytes
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS
from trainer.memory import ParameterCount, Storage
from trainer.model.published_config import MoondreamConfig

RANKS = (8, 32)
ACTIVE = (1, 4, DEFAULT_MAX_ADAPTERS)
GRADIENT_BYTES, MASTER_BYTES = 4, 12
"""float32: a gradient, which only the step that runs has; a value and two moments of Adam."""

CARDS_GB = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141)
USABLE_PART = 0.9
"""The rest is for what a pass needs on its way, for CUDA itself and for what is cut up."""

_HEAD = """\
# Memory

What the models take on a GPU, **computed** from their shapes by `trainer/memory.py`; this page is
written by `make docs`. GB are 10^9 bytes. Weights, keys and values, and adapters are exact; what is
computed with (a picture, activations) is an estimate. No figure here was measured: there is no
result of a GPU in `benchmarks/results/` yet. `moontune model inspect FOLDER` computes the same for
a model that is here, `moontune doctor` compares it with the memory that is free.

## What takes how much

{positions:,} positions are what a train step works on at once; of longer steps it makes parts.
Where memory is short, layers are computed again instead of being kept, and parts are halved until
one example is left. `train` is what a finetune that trains keeps between its steps: values and two
moments in float32. `answer` is its adapter in the dtype of the model.

"""
_ACTIVE = """
## With active finetunes

Weights, a picture, {sequences} sequences of {served} positions, one step of {positions:,}
positions with layers computed again, and so many finetunes that train and answer. Of those that
trained, {masters} stay on the device; all others come back from the disk at their next step, so
that their number has no bound. The last column is the smallest usual card of which nine tenths hold
the largest number of the row; a smaller one holds fewer answers at once, or waits.

"""
_FOOT = """
fp8 experts need compute capability 8.9 or later (Ada, Hopper, Blackwell); on older cards such files
are loaded as bfloat16 and take what bfloat16 takes. What is left on a card is divided between
growing answers, kept prompts and pictures, adapters and the gradient (`trainer/budgets.py`), so
that a larger card answers more at once and keeps more.
"""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A model, and how its weights are held."""

    model: KnownModel
    config: MoondreamConfig
    count: ParameterCount
    storage: Storage

    @property
    def title(self) -> str:
        """The published models that this is, without their owners."""
        alike = [model for model in KNOWN_MODELS if model.family == self.model.family]
        names = [model.repository.partition("/")[2] for model in alike]
        return ", ".join(names)


def page() -> str:
    """The page as it should stand in docs/memory.md."""
    positions = DEFAULT_MICRO_BATCH_TOKENS
    helds = list(_helds())
    active = _ACTIVE.format(
        sequences=memory.SERVED_SEQUENCES,
        served=memory.SERVED_POSITIONS,
        positions=positions,
        masters=DEFAULT_MAX_ADAPTERS,
    )
    head = _HEAD.format(positions=positions)
    return head + _parts_table(helds) + active + _active_table(helds) + _FOOT


def _helds() -> Iterator[_Held]:
    """What can be served, the two of Moondream 3 once: they have the same shapes."""
    for model in KNOWN_MODELS:
        if model.has_fp8:
            continue
        count = memory.count_parameters(model.config)
        storages = [Storage(dtype=torch.bfloat16), Storage(dtype=torch.float32)]
        if model.fp8_file is not None:
            storages.insert(0, Storage(dtype=torch.bfloat16, has_fp8_experts=True))
        for storage in storages:
            yield _Held(model=model, config=model.config, count=count, storage=storage)


def _parts_table(helds: Sequence[_Held]) -> str:
    rows = [[held.title, str(held.storage), *_parts(held)] for held in helds]
    ranks = [f"rank {rank}: {what}" for rank in RANKS for what in ("train", "answer")]
    head = ["Model", "Weights in", "Weights", "A picture", "16 sequences", *ranks, "A step"]
    return _table([*head, "The same, computed again"], rows)


def _parts(held: _Held) -> list[str]:
    config, dtype = held.config, held.storage.dtype
    sequences, positions = memory.SERVED_SEQUENCES, DEFAULT_MICRO_BATCH_TOKENS
    adapters = list[int]()
    for rank in RANKS:
        num_parameters = memory.num_adapter_parameters(config, rank)
        adapters += [MASTER_BYTES * num_parameters, dtype.itemsize * num_parameters]
    values = [
        memory.weight_bytes(held.count, held.storage),
        memory.picture_bytes(config, dtype),
        memory.kv_bytes(config, dtype, num_sequences=sequences),
        *adapters,
        memory.activation_bytes(config, dtype, num_positions=positions),
        memory.recomputed_bytes(config, dtype, num_positions=positions),
    ]
    return [readable_bytes(value) for value in values]


def _active_table(helds: Sequence[_Held]) -> str:
    rows = list[list[str]]()
    for held in helds:
        for rank in RANKS:
            needs = [active_bytes(held, rank=rank, num_finetunes=number) for number in ACTIVE]
            sums = [readable_bytes(value) for value in needs]
            rows.append([held.title, str(held.storage), str(rank), *sums, _card(max(needs))])
    numbers = [f"{number} active" for number in ACTIVE]
    return _table(["Model", "Weights in", "Rank", *numbers, "Card"], rows)


def active_bytes(held: _Held, *, rank: int, num_finetunes: int) -> int:
    """What a device holds while one of these finetunes makes a step."""
    config, dtype = held.config, held.storage.dtype
    num_parameters = memory.num_adapter_parameters(config, rank)
    each = num_parameters * (MASTER_BYTES + dtype.itemsize)
    sequences = memory.SERVED_SEQUENCES
    return (
        memory.serving_bytes(config, held.count, held.storage, num_sequences=sequences)
        + memory.recomputed_bytes(config, dtype, num_positions=DEFAULT_MICRO_BATCH_TOKENS)
        + num_parameters * GRADIENT_BYTES
        + num_finetunes * each
    )


def _card(num_bytes: int) -> str:
    """The smallest usual card on which so much is nine tenths or less."""
    fitting = [size for size in CARDS_GB if num_bytes <= USABLE_PART * size * 1e9]
    return f"{fitting[0]} GB" if fitting else "none"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
