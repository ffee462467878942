"""Model files: a round trip, other spellings of the names, and refusals that name every tensor."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.reference.model.tiny_moondream import tiny_config
from trainer.model.checkpoint import CheckpointError, load_model, save_model
from trainer.model.config import Family
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig


@pytest.fixture(params=["moondream1", "moondream3"])
def saved(request, tmp_path):
    model = Moondream.from_scratch(tiny_config(request.param), seed=0)
    save_model(model, tmp_path)
    return model, tmp_path


def rewrite(directory, change) -> None:
    """Apply `change` to the dict of tensors of a saved model."""
    tensors = change(load_file(directory / "model.safetensors"))
    save_file(tensors, directory / "model.safetensors")


def assert_same(loaded: Moondream, model: Moondream) -> None:
    wanted = model.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())


def test_a_saved_model_loads_the_same(saved):
    model, directory = saved
    loaded = load_model(directory)
    assert_same(loaded, model)
    assert not loaded.training
    assert loaded.config.text == model.config.text
    assert [path.name for path in sorted(directory.iterdir())] == [
        "config.json",
        "model.safetensors",
    ]


def test_bfloat16_on_disk_and_in_memory(saved):
    model, directory = saved
    save_model(model, directory, dtype=torch.bfloat16)
    loaded = load_model(directory, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.text.wte, model.text.wte.bfloat16())


def test_no_tensor_stays_on_the_meta_device(saved):
    _, directory = saved
    loaded = load_model(directory)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_other_spellings_of_names_are_read(saved):
    model, directory = saved
    rewrite(
        directory, lambda tensors: {name.removeprefix("model."): t for name, t in tensors.items()}
    )
    assert_same(load_model(directory), model)
    rewrite(directory, lambda tensors: {f"_orig_mod.{name}": t for name, t in tensors.items()})
    assert_same(load_model(directory), model)
    rewrite(
        directory,
        lambda tensors: {
            name.removeprefix("_orig_mod.").replace(".attn", "._orig_mod.attn"): t
            for name, t in tensors.items()
        },
    )
    assert_same(load_model(directory), model)


def test_key_value_caches_in_a_file_are_dropped(saved):
    model, directory = saved
    extra = {
        "text.blocks.0.kv_cache.k_cache": torch.zeros(2),
        "text.blocks.0.kv_cache.v_cache": torch.zeros(2),
    }
    rewrite(directory, lambda tensors: tensors | extra)
    assert_same(load_model(directory), model)


def test_shards_with_an_index_are_read(saved):
    model, directory = saved
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = list(tensors)
    weight_map = {}
    for shard, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{shard + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load_model(directory), model)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00002"):
        load_model(directory)


def test_one_error_names_every_wrong_tensor(saved):
    _, directory = saved

    def spoil(tensors):
        tensors = {name: t for name, t in tensors.items() if "post_ln" not in name}
        tensors["model.text.wte"] = torch.zeros(3, 3)
        return tensors | {"model.text.surprise": torch.zeros(2)}

    rewrite(directory, spoil)
    with pytest.raises(CheckpointError) as refusal:
        load_model(directory)
    message = str(refusal.value)
    for part in (
        "missing model.text.post_ln.weight [32]",
        "missing model.text.post_ln.bias [32]",
        "missing model.vision.post_ln.weight [16]",
        "misshapen model.text.wte [3, 3] in model.safetensors, wanted [64, 32]",
        "unexpected model.text.surprise [2] in model.safetensors",
    ):
        assert part in message
    assert str(directory) in message
    assert "6 tensors" in message


def test_the_same_tensor_twice_is_refused(saved):
    _, directory = saved
    rewrite(directory, lambda tensors: tensors | {"text.wte": tensors["model.text.wte"].clone()})
    with pytest.raises(CheckpointError, match=r"model\.text\.wte twice"):
        load_model(directory)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_without_a_model_type_the_tensors_tell_the_family(saved):
    model, directory = saved
    published = json.loads((directory / "config.json").read_text())
    del published["model_type"]
    (directory / "config.json").write_text(json.dumps(published))
    assert load_model(directory).config.family == model.config.family


@pytest.mark.parametrize(
    ("family", "num_tensors", "num_parameters"),
    [(Family.MOONDREAM2, 592, 1_927_237_104), (Family.MOONDREAM3, 662, None)],
)
def test_published_sizes_have_the_published_tensors(family, num_tensors, num_parameters):
    with torch.device("meta"):
        model = Moondream(MoondreamConfig.from_published({}, family=family))
    state = model.state_dict()
    assert len(state) == num_tensors
    total = sum(tensor.numel() for tensor in state.values())
    if num_parameters is not None:
        assert total == num_parameters
    else:
        assert round(total / 1e4) == 926863  # 9268.63 M
        assert tuple(state["model.text.blocks.23.mlp.fc1.weight"].shape) == (64, 2048, 2048)
        assert tuple(state["model.text.blocks.4.attn.tau.wq"].shape) == (32, 6144)
