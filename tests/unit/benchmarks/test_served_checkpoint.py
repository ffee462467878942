"""The checkpoint that the HTTP benchmark serves: it loads, and its answers do not end."""

from __future__ import annotations

import torch

from benchmarks import rollout_sides as sides
from benchmarks.served_checkpoint import write_checkpoint
from trainer.loading import load


def test_it_has_the_sizes_of_the_other_benchmarks_and_cannot_end(tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    loaded = load(tmp_path / "checkpoint", name="served", device="cpu", dtype="float32")
    config = loaded.model.config
    text = config.text
    sizes = (text.dim, text.ff_dim, text.n_layers, text.n_heads, text.vocab_size)
    assert sizes == (sides.HIDDEN, sides.INNER, sides.LAYERS, sides.HEADS, sides.VOCABULARY)
    assert (config.vision.num_image_tokens, text.prefix_attn) == (sides.NUM_IMAGE_TOKENS, 730)
    ids = config.tokenizer
    with torch.no_grad():
        logits_BV = loaded.model.text.logits(torch.randn(4, text.dim))
    probability_BV = logits_BV.double().softmax(-1)
    assert probability_BV[:, [ids.eos_id, ids.coord_id, ids.size_id]].count_nonzero() == 0
    assert probability_BV.count_nonzero() == 4 * (text.vocab_size - 3)
