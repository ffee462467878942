"""Every published layout loads to the same model; files that are not one are refused by name."""

from __future__ import annotations

import json
import pickle
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.reference.model.published_layouts import older_names, quantised
from tests.reference.model.tiny_moondream import tiny_config
from trainer.model.checkpoint import inspect_checkpoint, load_model, save_model
from trainer.model.config import Family
from trainer.model.layouts import CheckpointError
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig


def make(model_type: str) -> Moondream:
    """A model whose tau and biases are no zeros, so that a mix-up shows."""
    model = Moondream.from_scratch(tiny_config(model_type), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 3:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(params=["moondream1", "moondream3"])
def saved(request, tmp_path):
    model = make(request.param)
    save_model(model, tmp_path)
    return model, tmp_path


@pytest.fixture
def third(tmp_path):
    model = make("moondream3")
    save_model(model, tmp_path)
    return model, tmp_path


def replace_weights(directory, tensors, name="model.safetensors"):
    (directory / "model.safetensors").unlink()
    if name.endswith(".pt"):
        torch.save(tensors, directory / name)
    else:
        save_file(tensors, directory / name)


def assert_same(loaded: Moondream, model: Moondream) -> None:
    wanted = model.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())


def logits_of(model: Moondream) -> torch.Tensor:
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        hidden = model.text(model.embed_tokens(ids), positions_BT=torch.arange(38)[None])
        return model.text.logits(hidden)


@pytest.mark.parametrize("fused_tau", [True, False])
@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors", "model_fp8.pt"])
def test_the_older_names_load_the_same(saved, fused_tau, name):
    model, directory = saved
    replace_weights(directory, older_names(model.state_dict(), fused_tau=fused_tau), name)
    loaded = load_model(directory)
    assert_same(loaded, model)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_names_of_compiled_modules_and_leftovers_in_older_names_are_read(third):
    model, directory = third
    tensors = older_names(model.state_dict())
    tensors = {name.replace(".mixer", "._orig_mod.mixer"): t for name, t in tensors.items()}
    tensors["text_model.transformer.h.0.kv_quantizer.k_scale"] = torch.ones(())
    replace_weights(directory, tensors)
    assert_same(load_model(directory), model)


def test_the_number_of_stored_tensors_is_the_published_one():
    """678 with fused tau and scales, 702 with split tau; the sizes are the published ones."""
    with torch.device("meta"):
        state = Moondream(MoondreamConfig.from_published({}, family=Family.MOONDREAM3)).state_dict()
    plain = older_names(state)
    assert len(plain) + 40 == 678
    assert len(older_names(state, fused_tau=False)) + 40 == 702
    assert plain["text_model.transformer.h.0.tau_wqwv"].shape == (64, 6144)
    assert plain["region_model.coordinate_features.weight"].shape == (128, 1)
    assert plain["region_model.size_features.weight"].shape == (256, 2)


@pytest.mark.parametrize("keep_fp8", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "model_fp8.pt"])
def test_fp8_experts_compute_what_their_widened_weights_compute(third, keep_fp8, name):
    model, directory = third
    replace_weights(directory, older_names(model.state_dict(), fp8=True), name)
    with torch.no_grad():
        for block in model.text.blocks[1:]:
            for part in (block.mlp.fc1, block.mlp.fc2):
                weight, scale = quantised(part.weight)
                part.weight.copy_(weight.float() * scale[..., None])
    assert inspect_checkpoint(directory).has_fp8
    loaded = load_model(directory, keep_fp8=keep_fp8)
    stored = loaded.text.blocks[1].mlp.fc1.weight
    assert stored.dtype == (torch.float8_e4m3fn if keep_fp8 else torch.float32)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_kept_fp8_is_widened_in_float32_and_rounded_once(third):
    model, directory = third
    replace_weights(directory, older_names(model.state_dict(), fp8=True))
    widened = load_model(directory, dtype=torch.bfloat16)
    kept = load_model(directory, dtype=torch.bfloat16, keep_fp8=True)
    assert torch.equal(logits_of(kept), logits_of(widened))


def test_gradients_pass_through_kept_fp8(third):
    model, directory = third
    replace_weights(directory, older_names(model.state_dict(), fp8=True))
    results = []
    for keep_fp8 in (False, True):
        loaded = load_model(directory, keep_fp8=keep_fp8).requires_grad_(False)
        embeds = loaded.embed_tokens(torch.arange(2, 20)[None]).requires_grad_()
        hidden = loaded.text(embeds, positions_BT=torch.arange(18)[None])
        loaded.text.logits(hidden).square().sum().backward()
        results.append(embeds.grad)
    assert torch.equal(*results)
    assert results[0].abs().sum() > 0


def spoiled_scale(tensors):
    name = "text_model.transformer.h.1.moe_quant.up_scale"
    return tensors | {name: tensors[name][:, 1:].contiguous()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: {n: v for n, v in t.items() if "h.1.moe_quant.up" not in n},
            "h.1.mlp.experts.weight [6, 20, 32] in model.safetensors is fp8 without a scale",
        ),
        (spoiled_scale, "h.1.moe_quant.up_scale [6, 19] in model.safetensors does not fit"),
        (
            lambda t: t | {"text_model.transformer.h.0.moe_quant.up_scale": torch.ones(2)},
            "h.0.moe_quant.up_scale [2] in model.safetensors scales no fp8 tensor",
        ),
        (
            lambda t: t | {"text_model.transformer.h.0.mixer.Wqkv.weight.packed": torch.ones(2)},
            "holds int4 weights",
        ),
        (
            lambda t: t | {"text_model.transformer.h.0.surprise": torch.ones(2)},
            "unexpected text_model.transformer.h.0.surprise [2] in model.safetensors",
        ),
        (
            lambda t: {n: v for n, v in t.items() if "tau_wqwv" not in n},
            "missing model.text.blocks.2.attn.tau.wv [2, 96]",
        ),
        (
            lambda t: t | {"region_model.size_features.weight": torch.ones(2, 8)},
            "misshapen region_model.size_features.weight [2, 8] in model.safetensors,"
            " wanted [8, 2]",
        ),
    ],
)
def test_what_does_not_fit_is_named(third, spoil, message):
    model, directory = third
    replace_weights(directory, spoil(older_names(model.state_dict(), fp8=True)))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_model(directory)


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_pickle_with_code_is_refused_and_not_run(third, write, capsys):
    _, directory = third
    (directory / "model.safetensors").unlink()
    write({"weights": Harmful()}, directory / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt cannot be read .*safe"):
        load_model(directory)
    assert "must not run" not in capsys.readouterr().out


def test_a_file_cut_short_is_refused(third):
    model, directory = third
    replace_weights(directory, older_names(model.state_dict()), "model.pt")
    content = (directory / "model.pt").read_bytes()
    (directory / "model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.pt cannot be read"):
        load_model(directory)


def test_two_files_without_an_index_are_refused(third):
    _, directory = third
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").rename(directory / "a.safetensors")
    save_file(tensors, directory / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors and no"):
        load_model(directory)


def test_a_shard_that_the_index_leaves_out_is_named(third):
    _, directory = third
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = list(tensors)
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part}, directory / shard)
    index = {"weight_map": dict.fromkeys(names[::2], shards[0])}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="does not name model-00002-of-00002"):
        load_model(directory)


def test_progress_ends_at_all_bytes(third):
    model, directory = third
    calls = []
    load_model(directory, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] == sum(4 * t.numel() for t in model.state_dict().values())
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("layout", ["plain", "older"])
def test_a_config_of_another_family_is_refused(third, layout):
    model, directory = third
    if layout == "older":
        replace_weights(directory, older_names(model.state_dict()))
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "moondream1"}))
    with pytest.raises(ValueError, match="says moondream2, the weights say moondream3"):
        inspect_checkpoint(directory)
