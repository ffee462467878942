"""Adapters: names and shapes of the exchange format, their start, and the bank that keeps them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contract.engine import FileRef
from contract.errors import StateDamaged
from tests.micro import (
    RANK,
    REQUESTS,
    adapter_ref,
    micro_config,
    micro_model,
    random_adapter,
    sample_rollouts,
)
from trainer.adapters.bank import AdapterBank
from trainer.adapters.lora import Adapter, adapter_shapes, is_expert_factor
from trainer.adapters.stack import AdapterStack
from trainer.model.published_config import MoondreamConfig
from trainer.optim import AdamState
from trainer.storage import write_tensors

CPU = torch.device("cpu")
TEXT = micro_config().text
PUBLISHED = {
    family: MoondreamConfig.from_published({"model_type": family}).text
    for family in ("moondream3", "moondream2")
}


# Names and shapes


@pytest.mark.parametrize("rank", [8, 16, 24, 32])
def test_the_file_of_moondream_3_has_the_published_names_and_shapes(rank):
    # http-api.md 12.6
    expected: list[tuple[str, tuple[int, ...]]] = []
    for i in range(4):
        expected += [
            (f"text_lora.dense.{i}.up_a", (rank, 2048)),
            (f"text_lora.dense.{i}.up_b", (8192, rank)),
            (f"text_lora.dense.{i}.down_a", (rank, 8192)),
            (f"text_lora.dense.{i}.down_b", (2048, rank)),
        ]
    for i in range(20):
        expected += [
            (f"text_lora.moe.{i}.up_a", (64, rank // 8, 2048)),
            (f"text_lora.moe.{i}.up_b", (64, 2048, rank // 8)),
            (f"text_lora.moe.{i}.down_a", (64, rank // 8, 1024)),
            (f"text_lora.moe.{i}.down_b", (64, 2048, rank // 8)),
        ]
    assert len(expected) == 96
    assert list(adapter_shapes(PUBLISHED["moondream3"], rank).items()) == expected


def test_the_file_of_moondream_2_has_dense_layers_only():
    shapes = adapter_shapes(PUBLISHED["moondream2"], 8)
    assert len(shapes) == 96
    assert next(iter(shapes)) == "text_lora.dense.0.up_a"
    assert list(shapes)[-1] == "text_lora.dense.23.down_b"
    assert not any(is_expert_factor(name) for name in shapes)


@pytest.mark.parametrize(
    ("family", "rank", "count"),
    [("moondream3", 8, 9_830_400), ("moondream3", 32, 39_321_600), ("moondream2", 8, 3_932_160)],
)
def test_the_number_of_parameters_is_the_published_one(family, rank, count):
    # model-facts.md 8.2
    shapes = adapter_shapes(PUBLISHED[family], rank)
    assert sum(math.prod(shape) for shape in shapes.values()) == count


def test_a_rank_that_the_experts_cannot_share_is_refused():
    with pytest.raises(ValueError, match="rank 12"):
        adapter_shapes(PUBLISHED["moondream3"], 12)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_tensors_of_another_form_are_refused(fault):
    tensors = dict(random_adapter(micro_model()).tensors)
    if fault == "missing":
        del tensors["text_lora.moe.0.up_a"]
    elif fault == "extra":
        tensors["vision_lora.proj_fc2.up"] = torch.zeros(1)
    else:
        tensors["text_lora.moe.0.up_a"] = tensors["text_lora.moe.0.up_a"][:-1]
    with pytest.raises(ValueError, match="do not make an adapter"):
        Adapter(TEXT, RANK, tensors)


def test_tensors_in_any_order_are_put_into_that_of_the_file():
    tensors = random_adapter(micro_model()).tensors
    turned = {name: tensors[name] for name in reversed(tensors)}
    adapter = Adapter(TEXT, RANK, turned)
    assert list(adapter.tensors) == list(adapter_shapes(TEXT, RANK))
    assert adapter.layer(0).up_a is tensors["text_lora.dense.0.up_a"]
    assert adapter.layer(2).down_b is tensors["text_lora.moe.1.down_b"]


# The start


def test_a_fresh_adapter_is_uniform_within_its_fan_in_and_zero():
    adapter = Adapter.fresh(TEXT, 32, seed=5)
    for name, tensor in adapter.tensors.items():
        assert tensor.dtype == torch.float32
        if name.endswith("_b"):
            assert not tensor.any()
            continue
        # of each expert by itself: the last axis alone, not rank times it
        bound = 1 / math.sqrt(tensor.shape[-1])
        for matrix in tensor if is_expert_factor(name) else [tensor]:
            assert float(matrix.abs().max()) <= bound
            assert float(matrix.abs().max()) > 0.9 * bound
            assert float(matrix.std()) == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_the_start_depends_on_the_seed_alone():
    first, again = Adapter.fresh(TEXT, 8, seed=2**64 - 1), Adapter.fresh(TEXT, 8, seed=2**64 - 1)
    other = Adapter.fresh(TEXT, 8, seed=1)
    name = "text_lora.moe.1.down_a"
    assert all(torch.equal(first.tensors[n], again.tensors[n]) for n in first.tensors)
    assert not torch.equal(first.tensors[name], other.tensors[name])
    assert not torch.equal(first.tensors[name][0], first.tensors[name][1])


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
def test_a_fresh_adapter_answers_like_the_base_model(family, name):
    model = micro_model(family)
    fresh = Adapter.fresh(model.config.text, RANK, seed=1)
    assert sample_rollouts(model, REQUESTS[name], adapter=fresh) == sample_rollouts(
        model, REQUESTS[name]
    )


# The bank


def stored(directory: Path, name: str, seed: int) -> tuple[FileRef, Adapter]:
    adapter = random_adapter(micro_model(dtype=torch.float32), seed=seed)
    return write_tensors(directory / name, adapter.tensors, {}), adapter


def bank(**limits: int) -> AdapterBank:
    return AdapterBank(TEXT, CPU, **limits)


def test_a_finetune_without_weights_gets_the_fresh_adapter_of_its_seed():
    found = bank().adapter(adapter_ref(seed=9))
    fresh = Adapter.fresh(TEXT, RANK, seed=9)
    assert all(torch.equal(found.tensors[n], fresh.tensors[n]) for n in fresh.tensors)


def test_an_adapter_is_read_from_its_file_once(tmp_path):
    file, adapter = stored(tmp_path, "w", 1)
    kept = bank()
    found = kept.adapter(adapter_ref(weights=file))
    assert all(torch.equal(found.tensors[n], adapter.tensors[n]) for n in adapter.tensors)
    Path(file.path).unlink()
    assert kept.adapter(adapter_ref(weights=file, step=7)) is found  # known by its weights


def test_the_least_recently_used_adapter_leaves_and_is_read_again(tmp_path):
    refs = [adapter_ref(weights=stored(tmp_path, f"w{i}", i)[0]) for i in range(3)]
    kept = bank(max_adapters=2)
    first, second = kept.adapter(refs[0]), kept.adapter(refs[1])
    assert kept.adapter(refs[0]) is first  # now the second is the oldest
    kept.adapter(refs[2])
    assert kept.adapter(refs[0]) is first
    again = kept.adapter(refs[1])
    assert again is not second
    assert all(torch.equal(again.tensors[n], second.tensors[n]) for n in again.tensors)


def test_a_damaged_file_is_refused_and_not_remembered(tmp_path):
    file, _ = stored(tmp_path, "w", 1)
    whole = Path(file.path).read_bytes()
    Path(file.path).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    kept = bank()
    for _ in range(2):
        with pytest.raises(StateDamaged, match="damaged"):
            kept.adapter(adapter_ref(weights=file))
    Path(file.path).write_bytes(whole)
    kept.adapter(adapter_ref(weights=file))


def test_a_file_of_another_rank_is_refused(tmp_path):
    file, _ = stored(tmp_path, "w", 1)
    with pytest.raises(ValueError, match="rank 16"):
        bank().adapter(replace(adapter_ref(weights=file), rank=16))


def test_the_outcome_of_a_step_is_remembered_under_its_digests(tmp_path):
    file, adapter = stored(tmp_path, "w", 1)
    state = AdamState.fresh(adapter.tensors)
    moments = write_tensors(tmp_path / "o", state.to_tensors(), {})
    kept, ref = bank(), adapter_ref(weights=file)
    kept.keep(ref.finetune_id, file, adapter, moments, state)
    assert kept.adapter(ref) is adapter
    assert kept.optimizer(ref, moments) is state


def test_the_optimizer_starts_at_zero_and_comes_back_from_its_file(tmp_path):
    file, adapter = stored(tmp_path, "w", 1)
    kept, ref = bank(max_optimizers=1), adapter_ref(weights=file)
    fresh = kept.optimizer(ref, None)
    assert fresh.num_updates == 0
    assert set(fresh.mean) == set(fresh.square) == set(adapter.tensors)
    moved = AdamState(
        num_updates=4,
        mean={n: t + 1 for n, t in fresh.mean.items()},
        square={n: t + 2 for n, t in fresh.square.items()},
    )
    found = kept.optimizer(ref, write_tensors(tmp_path / "o", moved.to_tensors(), {}))
    assert found.num_updates == 4
    assert all(torch.equal(found.mean[n], moved.mean[n]) for n in moved.mean)
    assert all(torch.equal(found.square[n], moved.square[n]) for n in moved.square)


def test_what_is_dropped_is_gone_and_others_stay(tmp_path):
    file, _ = stored(tmp_path, "w", 1)
    mine, other = adapter_ref(weights=file), adapter_ref(weights=file, finetune_id="G" * 26)
    kept = bank()
    first, theirs = kept.adapter(mine), kept.adapter(other)
    kept.drop(mine.finetune_id)
    assert kept.adapter(mine) is not first
    assert kept.adapter(other) is theirs
    kept.drop("unknown")


class TestStack:
    """Rows with different adapters give exactly what each gives alone."""

    @staticmethod
    def hidden(model, adapter, tokens_BT):
        text = model.text
        with torch.no_grad():
            return text(
                text.embed_tokens(tokens_BT),
                positions_BT=torch.arange(tokens_BT.shape[1])[None],
                adapter=adapter,
            )

    @pytest.mark.parametrize("family", ["moondream2", "moondream3"])
    def test_rows_of_many_adapters_ranks_and_none(self, family):
        model = micro_model(family)
        config = model.config.text
        adapters = []
        for seed, rank in ((1, 8), (2, 16), (3, 8)):
            adapter = Adapter.fresh(config, rank, seed=seed)
            for name, tensor in adapter.tensors.items():
                if name.endswith("_b"):
                    tensor.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
            adapters.append(adapter)
        one, two, three = adapters
        rows = [two, None, one, two, three, None, one]
        tokens_BT = torch.randint(
            20, 200, (len(rows), 3), generator=torch.Generator().manual_seed(5)
        )
        stack = AdapterStack(config, rows, device=CPU, dtype=torch.float64)
        together = self.hidden(model, stack, tokens_BT)
        alone = torch.cat([self.hidden(model, a, tokens_BT[i : i + 1]) for i, a in enumerate(rows)])
        assert torch.allclose(together, alone, atol=1e-12)
        kept = [1, 3, 4]
        fewer = self.hidden(model, stack.of_rows([rows[i] for i in kept]), tokens_BT[kept])
        assert torch.allclose(fewer, alone[kept], atol=1e-12)
        assert stack.of_rows([one, Adapter.fresh(config, 8, seed=9)]) is None
        swapped = self.hidden(model, one, tokens_BT[:1])
        assert not torch.allclose(alone[0], swapped[0], atol=1e-3)
