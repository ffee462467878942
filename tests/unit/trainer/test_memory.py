"""Memory formulas against the published geometry; the expected figures are reckoned by hand."""

from __future__ import annotations

import pytest
import torch

from trainer import memory
from trainer.memory import Storage
from trainer.model.published_config import MoondreamConfig

BF16 = Storage(dtype=torch.bfloat16)
FP8 = Storage(dtype=torch.bfloat16, has_fp8_experts=True)


@pytest.fixture(scope="module")
def moondream2() -> MoondreamConfig:
    return MoondreamConfig.from_published({"model_type": "moondream1"})


@pytest.fixture(scope="module")
def moondream3() -> MoondreamConfig:
    return MoondreamConfig.from_published({"model_type": "moondream3"})


def test_moondream_2_has_its_published_parameters(moondream2: MoondreamConfig) -> None:
    count = memory.count_parameters(moondream2)
    assert (count.total, count.in_experts) == (1_927_237_104, 0)
    assert memory.weight_bytes(count, BF16) == 2 * 1_927_237_104
    assert memory.weight_bytes(count, FP8) == 2 * 1_927_237_104, "it has no experts"


def test_moondream_3_has_its_published_parameters_and_bytes(moondream3: MoondreamConfig) -> None:
    count = memory.count_parameters(moondream3)
    assert round(count.total / 1e6, 2) == 9268.63
    # 20 layers of 64 experts: [2 * 1024, 2048] and [2048, 1024]
    assert count.in_experts == 20 * 64 * (2048 * 2048 + 2048 * 1024)
    assert round(memory.weight_bytes(count, BF16) / 1e9, 2) == 18.54
    # 8.053 GB of experts in fp8, 2.431 GB of others in bfloat16, 0.021 GB of scales
    assert round(memory.weight_bytes(count, FP8) / 1e9, 3) == 10.505
    assert memory.weight_bytes(count, Storage(dtype=torch.float32)) == 4 * count.total


def test_keys_and_values_take_their_published_bytes(moondream3: MoondreamConfig) -> None:
    assert memory.kv_bytes_per_position(moondream3, torch.bfloat16) == 196_608
    # 16 sequences of 950 positions: 2.99 GB
    sixteen = memory.kv_bytes(moondream3, torch.bfloat16, num_sequences=16)
    assert sixteen == 16 * 950 * 196_608


@pytest.mark.parametrize(("rank", "megabytes"), [(8, 157), (32, 629)])
def test_an_adapter_of_moondream_3_takes_16_bytes_a_parameter(
    moondream3: MoondreamConfig, rank: int, megabytes: int
) -> None:
    assert memory.num_adapter_parameters(moondream3, rank) == 9_830_400 * rank // 8
    assert round(memory.adapter_bytes(moondream3, rank) / 1e6) == megabytes


def test_an_adapter_of_moondream_2_is_the_published_one(moondream2: MoondreamConfig) -> None:
    assert memory.num_adapter_parameters(moondream2, 8) == 3_932_160


def test_a_rank_that_the_experts_cannot_share_is_refused(moondream3: MoondreamConfig) -> None:
    with pytest.raises(ValueError, match="rank 12 does not divide by the 8 active experts"):
        memory.adapter_bytes(moondream3, 12)


def test_the_estimate_of_activations_is_near_the_published_one(moondream3: MoondreamConfig) -> None:
    """Published: about 135 kB per position and expert layer, 3.2 MB per position."""
    layer = memory.layer_bytes_per_position(moondream3, torch.bfloat16, 23)
    assert 135e3 <= layer <= 1.35 * 135e3
    position = memory.activation_bytes(moondream3, torch.bfloat16, num_positions=1)
    assert 3.2e6 <= position <= 1.25 * 3.2e6


def test_computing_layers_again_keeps_one_layer_and_what_goes_into_each(
    moondream3: MoondreamConfig,
) -> None:
    kept = memory.recomputed_bytes(moondream3, torch.bfloat16, num_positions=2048)
    layer = memory.layer_bytes_per_position(moondream3, torch.bfloat16, 23)
    assert kept == 2048 * (layer + 24 * 2048 * 2)
    whole = memory.activation_bytes(moondream3, torch.bfloat16, num_positions=2048)
    assert kept < whole / 10


def test_serving_is_weights_a_picture_and_the_cache(moondream2: MoondreamConfig) -> None:
    count = memory.count_parameters(moondream2)
    least = memory.serving_bytes(moondream2, count, BF16)
    more = memory.serving_bytes(moondream2, count, BF16, num_sequences=16)
    assert more - least == 15 * 950 * 196_608
    rest = least - memory.weight_bytes(count, BF16) - 950 * 196_608
    assert rest == memory.picture_bytes(moondream2, torch.bfloat16)


def test_a_storage_reads_as_it_is_told_to_people() -> None:
    assert (str(BF16), str(FP8)) == ("bfloat16", "bfloat16 with fp8 experts")
