"""Random checkpoints: full-size ones as a plan, small ones written and loaded."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter

import pytest
import torch
from safetensors import safe_open

from benchmarks.random_checkpoint import __main__ as command
from benchmarks.random_checkpoint import values
from benchmarks.random_checkpoint.checkpoint import RandomCheckpoint
from tests.reference.model.published_layouts import older_names
from trainer.loading import load
from trainer.model.checkpoint import inspect_checkpoint, load_model
from trainer.model.config import Family
from trainer.model.layouts import FP8, Layout
from trainer.model.moondream import Moondream

HF, TEXT_MODEL = Layout.HUGGING_FACE, Layout.OLDER
SECOND, THIRD = Family.MOONDREAM2, Family.MOONDREAM3

EVERY_KIND = [
    pytest.param(family, layout, fp8, id=f"{family.value}, {layout}{', fp8' * fp8}")
    for family, layout, fp8 in itertools.product(Family, Layout, (False, True))
    if not fp8 or (family, layout) == (THIRD, TEXT_MODEL)
]
FP8_ERROR = 2**-4  # 3 bits behind the first: half of the last is this, relative to a power of two


def small(family: Family, layout: Layout = HF, **facts) -> RandomCheckpoint:
    return RandomCheckpoint(
        family=family, layout=layout, scale="small", **{"dtype": torch.float32, **facts}
    )


def logits_of(model: Moondream) -> torch.Tensor:
    """Behind a picture of noise and some ids."""
    vision = model.config.vision
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, vision.crop_size, vision.crop_size, 3, generator=generator)
    crops = (255 * pixels).to(torch.uint8).numpy()
    with torch.no_grad():
        image = model.vision.encode_images([(crops, (1, 1))])[0]
        ids = torch.arange(2, 40)
        embeds = torch.cat([model.embed_tokens(ids[:1]), image, model.embed_tokens(ids)])[None]
        hidden = model.text(embeds, positions_BT=torch.arange(embeds.shape[1])[None])
        return model.text.logits(hidden)


# Figures of the published files; MD2: 1,927,237,104 parameters in two bytes each.
@pytest.mark.parametrize(
    ("family", "layout", "fp8", "num_tensors", "gigabytes"),
    [
        pytest.param(THIRD, HF, False, 662, "18.54", id="moondream3 in bfloat16"),
        pytest.param(THIRD, TEXT_MODEL, True, 678, "10.51", id="moondream3.1 with fp8 experts"),
        pytest.param(SECOND, HF, False, 592, "3.85", id="moondream2"),
        pytest.param(SECOND, TEXT_MODEL, False, 592, "3.85", id="moondream2 in older names"),
    ],
)
def test_the_full_size_is_the_published_one(family, layout, fp8, num_tensors, gigabytes):
    planned = RandomCheckpoint(family=family, layout=layout, has_fp8=fp8).tensors()
    assert len({tensor.name for tensor in planned}) == len(planned) == num_tensors
    assert f"{sum(tensor.num_bytes for tensor in planned) / 1e9:.2f}" == gigabytes


def test_fp8_experts_have_the_published_shapes_and_dtypes():
    planned = RandomCheckpoint(family=THIRD, layout=TEXT_MODEL, has_fp8=True).tensors()
    found = {tensor.name: (tensor.dtype, tensor.shape) for tensor in planned}
    layer = "text_model.transformer.h.23"
    bf16 = torch.bfloat16
    assert {
        f"{layer}.mlp.experts.weight": (FP8, (64, 2048, 2048)),
        f"{layer}.mlp.output_experts.weight": (FP8, (64, 2048, 1024)),
        f"{layer}.moe_quant.up_scale": (torch.float32, (64, 2048)),
        f"{layer}.moe_quant.down_scale": (torch.float32, (64, 2048)),
        f"{layer}.gate.bias": (bf16, (64,)),
        f"{layer}.tau_wqwv": (bf16, (64, 6144)),
        "text_model.transformer.h.3.mlp.fc1.weight": (bf16, (8192, 2048)),
        "region_model.coordinate_features.weight": (bf16, (128, 1)),
        "region_model.size_features.weight": (bf16, (256, 2)),
        "vision_encoder.encoder.model.visual.pos_embed": (bf16, (1, 729, 1152)),
    }.items() <= found.items()
    by_dtype = Counter()
    for tensor in planned:
        by_dtype[tensor.dtype] += tensor.num_bytes
    # 20 layers of 64 experts of 6.29 M parameters; 2 * 2048 rows of each have a scale
    assert by_dtype[FP8] == 20 * 64 * (2048 * 2048 + 2048 * 1024)
    assert by_dtype[torch.float32] == 20 * 64 * 2 * 2048 * 4
    assert f"{by_dtype[bf16] / 1e9:.3f}" == "2.431"
    assert f"{by_dtype.total() / 1e9:.3f}" == "10.505"


@pytest.mark.parametrize(("family", "layout", "fp8"), EVERY_KIND)
def test_every_kind_loads_as_what_it_is(family, layout, fp8, tmp_path):
    checkpoint = small(family, layout, has_fp8=fp8, dtype=torch.bfloat16)
    checkpoint.write(tmp_path)
    found = inspect_checkpoint(tmp_path)
    assert (found.layout, found.has_fp8, found.config.family) == (layout, fp8, family)
    assert found.num_bytes == sum(tensor.num_bytes for tensor in checkpoint.tensors())
    # with its tokenizer, as the worker does
    loaded = load(tmp_path, name="random", device="cpu", dtype="float32")
    assert torch.isfinite(logits_of(loaded.model)).all()


@pytest.mark.parametrize("family", Family)
def test_a_seed_gives_the_same_model_in_both_layouts_and_without_a_file(family, tmp_path):
    for layout in Layout:
        small(family, layout, seed=3).write(tmp_path / layout)
    one, other = (load_model(tmp_path / layout) for layout in Layout)
    assert torch.equal(logits_of(one), logits_of(other))
    built = small(family, seed=3).build()
    assert torch.equal(logits_of(one), logits_of(built))
    assert not torch.equal(logits_of(one), logits_of(small(family, seed=4).build()))


@pytest.mark.parametrize("family", Family)
def test_text_model_tensors_are_those_of_a_twin_of_the_layout(family):
    checkpoint = small(family, TEXT_MODEL)
    wanted = older_names(checkpoint.build().state_dict())
    planned = {tensor.name: tensor for tensor in checkpoint.tensors()}
    assert planned.keys() == wanted.keys()
    for name, tensor in planned.items():
        made = tensor.make()
        assert made.shape == tensor.shape
        assert torch.equal(made, wanted[name]), name


def test_fp8_experts_are_those_of_the_seed_but_for_rounding(tmp_path):
    small(THIRD, TEXT_MODEL, has_fp8=True).write(tmp_path)
    got, wanted = load_model(tmp_path).state_dict(), small(THIRD).build().state_dict()
    for name, tensor in wanted.items():
        if tensor.ndim == 3 and ".mlp." in name:
            error = (got[name] - tensor).norm() / tensor.norm()
            assert 0 < error < FP8_ERROR, name
        else:
            assert torch.equal(got[name], tensor), name


def test_weights_are_cut_into_shards_with_an_index(tmp_path):
    checkpoint = small(THIRD)
    checkpoint.write(tmp_path / "whole")
    checkpoint.write(tmp_path / "cut", shard_bytes=2_000_000)
    shards = sorted((tmp_path / "cut").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(re.fullmatch(r"model-0\d{4}-of-0\d{4}\.safetensors", path.name) for path in shards)
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.num_bytes for t in checkpoint.tensors())
    for path in shards:
        with safe_open(path, "pt") as file:
            held = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        assert sum(t.nbytes for t in held) <= 2_000_000 or len(held) == 1
    one, other = (load_model(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("family", Family)
def test_hidden_states_keep_their_size(family):
    model = small(family).build()
    with torch.no_grad():
        embeds = model.embed_tokens(torch.arange(2, 200))[None]
        hidden = model.text(embeds, positions_BT=torch.arange(embeds.shape[1])[None])
    # Embeddings have 0.5, and every layer adds its share to the stream.
    assert 0.5 < hidden.std() < 5


def test_the_end_of_text_is_unlikely_and_one_more_object_likely():
    checkpoint = small(THIRD)
    bias = checkpoint.build().text.lm_head.bias
    ids = checkpoint.config.tokenizer
    assert (bias.argmin(), bias.argmax()) == (ids.eos_id, ids.coord_id)


def test_fp8_is_refused_where_no_published_model_has_it():
    with pytest.raises(ValueError, match="moondream3 in the text_model layout only"):
        small(THIRD, HF, has_fp8=True)
    with pytest.raises(ValueError, match="moondream3 in the text_model layout only"):
        small(SECOND, TEXT_MODEL, has_fp8=True)


def test_the_command_says_what_it_wrote_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    words = ["command", str(tmp_path), "--family", "moondream2", "--scale", "small"]
    monkeypatch.setattr("sys.argv", words)
    assert command.main() == 0
    written = json.loads(capsys.readouterr().out)
    assert written["num_tensors"] == len(small(SECOND).tensors())
    assert command.main() == 2
    assert "is not empty" in capsys.readouterr().err


def test_weights_that_fp8_cannot_hold_are_cut_to_the_largest(monkeypatch):
    """At full scale a few of billions lie beyond; here, where the scale leaves room for one sigma,
    a third does."""
    monkeypatch.setattr(values, "FP8_SIGMAS", 1.0)
    planned = {t.name: t for t in small(THIRD, TEXT_MODEL, has_fp8=True).tensors()}
    experts = planned["text_model.transformer.h.4.mlp.experts.weight"].make().float()
    assert torch.isfinite(experts).all()
    assert (experts.abs() == torch.finfo(FP8).max).float().mean() > 0.2
