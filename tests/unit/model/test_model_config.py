"""What a config accepts, fills in, and refuses."""

from __future__ import annotations

import json

import pytest

from trainer.model.config import Family
from trainer.model.published_config import MoondreamConfig

TINY_IDS = {
    "caption": {"short": [1], "normal": [1], "long": [1]},
    "query": {"prefix": [1], "answer_prefix": [3], "reasoning_prefix": [4]},
    "detect": {"prefix": [1], "suffix": [3]},
    "point": {"prefix": [1], "suffix": [3]},
    "segment": None,
}


def published(family: str = "moondream3", **parts: dict) -> dict:
    return {"model_type": family, "config": parts}


def test_an_empty_moondream3_config_has_the_published_sizes():
    config = MoondreamConfig.from_published(
        {"model_type": "moondream3", "config": {"skills": ["query"]}}
    )
    text = config.text
    assert (text.dim, text.n_layers, text.head_dim, text.rotated_dim) == (2048, 24, 64, 32)
    assert (text.max_context, text.rope_theta, text.prefix_attn) == (32768, 1.5e6, 730)
    assert (text.moe.num_experts, text.moe.experts_per_token, text.moe.start_layer) == (64, 8, 4)
    assert (config.vision.grid_side, config.vision.window_px, config.vision.both_margins_px) == (
        27,
        266,
        112,
    )
    assert (config.region.decoder_arch, config.region.use_ln, config.region.inner_dim) == (
        "linear",
        True,
        None,
    )
    assert config.tokenizer.templates.query.answer_prefix == (3,)
    assert config.tokenizer.templates.detect.prefix == (1, 7235, 476, 2)


def test_an_empty_moondream2_config_has_the_published_sizes():
    config = MoondreamConfig.from_published({"model_type": "moondream1"})
    assert (config.text.max_context, config.text.rope_theta, config.text.moe) == (2048, 1e4, None)
    assert not config.text.tau_attn
    assert (config.region.decoder_arch, config.region.use_ln, config.region.inner_dim) == (
        "mlp",
        False,
        8192,
    )
    assert config.tokenizer.templates.query.answer_prefix == (3, 3)
    assert config.tokenizer.templates.query.answer_suppressed_token_ids == (3,)
    assert config.tokenizer.templates.segment is None


def test_defaults_of_disputed_choices():
    config = MoondreamConfig.from_published({"model_type": "moondream3"})
    assert (config.text.tau_gelu, config.text.tau_position_dtype) == ("tanh", "float32")
    assert (config.region.coord_divisor, config.region.region_gelu) == (1023, "tanh")
    assert config.region.round_decoded_values is False
    assert config.vision.crop_dtype == "model"
    assert config.tokenizer.post_reasoning_answer_tokens == 1
    assert config.tokenizer.mask_first_token is True


def test_the_grid_follows_crop_and_patch_not_the_number_of_layers():
    config = MoondreamConfig.from_published(
        published(
            vision={"crop_size": 84, "enc_patch_size": 7, "overlap_margin": 2, "enc_n_layers": 3}
        )
    )
    assert config.vision.num_image_tokens == 144
    assert config.text.prefix_attn == 145


@pytest.mark.parametrize("family", ["moondream1", "moondream3"])
def test_a_written_config_reads_back_the_same(family):
    config = MoondreamConfig.from_published({"model_type": family})
    again = MoondreamConfig.from_published(json.loads(json.dumps(config.to_published())))
    for part in ("family", "text", "vision", "region", "tokenizer"):
        assert getattr(again, part) == getattr(config, part)
    assert json.loads(config.to_json_string()) == config.to_published()


def test_without_a_model_type_the_family_must_be_given():
    assert MoondreamConfig.from_published({}, family=Family.MOONDREAM2).text.moe is None
    with pytest.raises(ValueError, match="give the family"):
        MoondreamConfig.from_published({})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"text": {"n_layer": 3}}, r"unknown keys in text: \['n_layer'\]"),
        ({"sound": {}}, "sound"),
        ({"text": {"n_kv_heads": 8}}, "n_kv_heads is 8"),
        ({"text": {"group_size": 128}}, "int4"),
        ({"text": {"dim": 100}}, "100"),
        ({"text": {"n_layers": 2.5}}, "n_layers is 2.5, wanted an int"),
        ({"text": {"prefix_attn": 700}}, "700"),
        ({"text": {"tau_gelu": "relu"}}, "tau_gelu"),
        ({"text": {"tau_attn": False}}, "tau_attn False"),
        ({"text": {"moe": {"num_experts": 4}}}, "experts_per_token is 8"),
        ({"vision": {"crop_size": 380}}, "380"),
        ({"vision": {"proj_out_dim": 64}}, "proj_out_dim is 64"),
        ({"vision": {"overlap_margin": 14}}, "overlap_margin 14"),
        ({"region": {"coord_out_dim": 512}}, "512"),
        ({"region": {"dim": 64}}, "region.dim is 64"),
        ({"region": {"decoder_arch": "mlp"}}, "inner_dim is None"),
        ({"region": {"coord_divisor": 1000}}, "1000"),
        ({"text": {"vocab_size": 100}}, "vocabulary of 100"),
        ({"tokenizer": {"templates": {"dance": {}}}}, "dance"),
        ({"tokenizer": {"templates": {"query": {"prefix": [1]}}}}, "missing keys in tokenizer"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=message):
        MoondreamConfig.from_published(published(**parts))


def test_an_unknown_model_type_is_refused():
    with pytest.raises(ValueError, match="llama"):
        MoondreamConfig.from_published({"model_type": "llama"})


def test_family_and_model_type_must_agree():
    with pytest.raises(ValueError, match="moondream2"):
        MoondreamConfig.from_published({"model_type": "moondream3"}, family=Family.MOONDREAM2)
