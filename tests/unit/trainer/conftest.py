"""What the tests of the trainer watch while an engine works."""

from __future__ import annotations

import pytest

from tests.unit.trainer.engines import Units
from trainer import decoder as decoder_module
from trainer import sampler as sampler_module


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Units:
    """The passes over prompts and the ticks of all engines, in order."""
    found = Units()
    real_prefill, real_draw = sampler_module.prefill_together, decoder_module.draw

    def prefill_together(model, adapters, rows, features):
        num_image_tokens = model.config.vision.num_image_tokens
        found.add_prompts([row.num_positions(num_image_tokens) for row in rows])
        return real_prefill(model, adapters, rows, features)

    def draw(model, rollouts, hidden_ND):
        found.add_tick([rollout.seed for rollout in rollouts])
        real_draw(model, rollouts, hidden_ND)

    monkeypatch.setattr(sampler_module, "prefill_together", prefill_together)
    monkeypatch.setattr(decoder_module, "draw", draw)
    return found
