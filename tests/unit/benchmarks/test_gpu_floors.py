"""The ceilings of the GPU benchmark, against figures that were worked out on paper."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.floors import Floors, levers
from benchmarks.random_checkpoint.checkpoint import RandomCheckpoint
from trainer.adapters.lora import Adapter, adapter_shapes
from trainer.model.config import Family
from trainer.model.moondream import Moondream

H200 = {"bandwidth_gb_per_second": 4800.0, "bfloat16_tflops": 400.0}
GIGA, MIB = 1e9, 1 << 20
PROMPT = 742


@pytest.fixture(scope="module")
def model() -> Moondream:
    """Moondream 3 in its full geometry, shapes only."""
    with torch.device("meta"):
        return Moondream(RandomCheckpoint(family=Family.MOONDREAM3).config).to(torch.bfloat16)


@pytest.mark.parametrize(("num_rows", "gigabytes"), [(1, 3.32), (16, 15.51), (64, 17.41)])
def test_a_tick_reads_shared_weights_and_the_experts_that_were_chosen(model, num_rows, gigabytes):
    num_experts = 64 * (1 - (7 / 8) ** num_rows)  # even routing, 8 of 64
    reads = Floors(model, H200).tick(num_experts=num_experts, prompts=[], num_rows=1, num_added=0.0)
    assert reads.weights / GIGA == pytest.approx(gigabytes, abs=0.006)
    assert (reads.cache, reads.adapters) == (0.0, 0.0)


def test_a_prompt_is_read_once_for_all_its_rows_and_what_they_added_by_each(model):
    floors = Floors(model, H200)
    one = floors.tick(num_experts=64.0, prompts=[PROMPT], num_rows=16, num_added=0.0)
    # 2 L D = 2 x 24 x 2048 numbers of two bytes: 139 MiB for 742 positions
    assert one.cache / MIB == pytest.approx(139.1, abs=0.1)
    added = floors.tick(num_experts=64.0, prompts=[PROMPT], num_rows=16, num_added=10.0)
    assert added.cache - one.cache == 16 * 10 * 196_608


@pytest.mark.parametrize(
    ("num_rows", "num_groups", "milliseconds"), [(16, 1, 3.3), (64, 4, 3.8), (256, 16, 4.3)]
)
def test_ticks_have_the_ceilings_of_the_estimate_for_an_h200(
    model, num_rows, num_groups, milliseconds
):
    floors = Floors(model, H200)
    reads = floors.tick(
        num_experts=64 * (1 - (7 / 8) ** num_rows),
        prompts=[PROMPT] * num_groups,
        num_rows=num_rows,
        num_added=12.0,
    )
    assert floors.milliseconds(reads) == pytest.approx(milliseconds, abs=0.06)


def test_of_an_adapter_a_tick_reads_the_dense_factors_and_those_of_chosen_experts(model):
    shapes = adapter_shapes(model.config.text, 8)
    tensors = {n: torch.empty(s, device="meta", dtype=torch.bfloat16) for n, s in shapes.items()}
    adapter = Adapter(model.config.text, 8, tensors)
    arguments = {"prompts": [], "num_rows": 1, "num_added": 0.0, "adapters": [adapter]}
    floors = Floors(model, H200)
    whole = floors.tick(num_experts=64.0, **arguments).adapters
    half = floors.tick(num_experts=32.0, **arguments).adapters
    dense = sum(t.nbytes for n, t in tensors.items() if n.startswith("text_lora.dense."))
    assert whole == adapter.num_bytes
    assert half == pytest.approx(dense + (adapter.num_bytes - dense) / 2)


def test_levers_say_what_each_step_to_the_ceiling_would_gain():
    found = levers(num_launches=2000, tick_ms=16.0, busy_ms=8.0, ceiling_ms=4.0)
    assert found == {
        "launch_ms": 10.0,  # 2000 x 5 us
        "idle_share": 0.5,
        "times_faster_without_idleness": 2.0,
        "times_faster_with_kernels_at_the_ceiling": 2.0,
    }
