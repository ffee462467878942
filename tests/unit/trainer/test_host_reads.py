"""The host waits for the device once per decode step, whatever is in the batch.

On a CPU nothing waits, so what would is counted: every call that reads a tensor's values, or whose
result has a size that depends on them.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode

from contract.skills import Settings, Skill
from tests.micro import (
    REQUESTS,
    features_of,
    language_of,
    micro_model,
    pictures,
    random_adapter,
)
from trainer.batching import Row
from trainer.decoder import Decoder, DecodeRequest
from trainer.model.kv_blocks import BlockPool
from trainer.prefill import prefill_together
from trainer.skills import SKILLS

READS = {
    "tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__",
    "nonzero", "bincount", "unique", "masked_select", "masked_scatter", "argwhere", "equal",
    "allclose", "unique_consecutive", "histc",
}  # fmt: skip


class CountingReads(TorchFunctionMode):
    """Counts calls that a GPU would make the host wait for."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", str(func))
        if name in READS:
            self.found[name] += 1
        if name in ("__getitem__", "__setitem__") and _has_mask(args[1]):
            self.found[f"{name} with a mask"] += 1
        if name == "to" and "cpu" in args[1:]:
            self.found["to cpu"] += 1
        if name in ("tensor", "as_tensor", "new_tensor") and (kwargs or {}).get("device"):
            self.found[f"{name} from pageable memory"] += 1
        if name == "repeat_interleave" and not (kwargs or {}).get("output_size"):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(index: object) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(p, torch.Tensor) and p.dtype == torch.bool for p in parts)


@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
@torch.no_grad()
def test_a_tick_reads_once_with_many_skills_adapters_and_heats(family):
    model = micro_model(family, torch.float32)
    language = language_of(model)
    pool = BlockPool(model.config.text, 64, device="cpu", dtype=torch.float32)
    decoder = Decoder(model, pool)
    adapters = [None, *(random_adapter(model, seed=n, rank=8 * n) for n in (1, 2))]
    heats = [(0.0, 1.0), (1.0, 1.0), (0.8, 0.9)]
    for number, (name, request) in enumerate(REQUESTS.items()):
        skill = SKILLS[Skill(request.skill)]
        digest = None if request.image is None else pictures()[request.image].digest
        row = Row(image=digest, prompt=tuple(skill.prompt(request, language)))
        adapter = adapters[number % 3]
        temperature, top_p = heats[number % 3]
        with CountingReads() as reads:
            (prefix,) = prefill_together(model, [adapter], [row], features_of(model))
        assert not reads.found, name
        decoder.add(
            DecodeRequest(
                prefix=prefix,
                adapter=adapter,
                new_grammar=lambda skill=skill, request=request: skill.grammar(request, language),
                settings=Settings(
                    temperature=temperature, top_p=top_p, max_tokens=8, max_objects=3
                ),
                num_rollouts=3,
                seed=number,
            )
        )
    decoder.tick()  # numbers for the draws of many positions are made on the host
    num_ticks = 0
    while not decoder.is_idle:
        with CountingReads() as reads:
            decoder.tick()
        assert reads.found == {"tolist": 1}, f"tick {num_ticks}"
        num_ticks += 1
    assert num_ticks >= 6


def test_the_counting_finds_reads():
    with CountingReads() as reads:
        values = torch.arange(3)
        values[values > 1].tolist()
        if values.sum() > 0:
            values.max().item()
    assert reads.found == {"__getitem__ with a mask": 1, "tolist": 1, "__bool__": 1, "item": 1}
