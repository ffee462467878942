"""What the sampler records of a draw is what the trainer's forward pass says of it."""

from __future__ import annotations

import pytest
import torch

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
from trainer.packing import pack
from trainer.prefill import prefill_together
from trainer.scoring import score
from trainer.skills import SKILLS

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
HEATS = [(1.0, 1.0), (0.7, 0.8), (0.0, 1.0)]


@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@torch.no_grad()
def test_logprobs_of_a_mixed_batch_equal_those_of_the_trainer(family, dtype):
    model = micro_model(family, dtype)
    language, features = language_of(model), features_of(model)
    adapters = [None, *(random_adapter(model, seed=n, rank=8 * n) for n in (1, 2, 3))]
    asked = [(r, a) for a in adapters for r in REQUESTS.values()]
    rows = []
    for request, _ in asked:
        digest = None if request.image is None else pictures()[request.image].digest
        prompt = tuple(SKILLS[Skill(request.skill)].prompt(request, language))
        rows.append(Row(image=digest, prompt=prompt))
    pool = BlockPool(model.config.text, 400, device="cpu", dtype=dtype)
    decoder = Decoder(model, pool, row_buckets=(64, 128))
    tickets = {}
    for has_image in (False, True):
        at = [i for i, row in enumerate(rows) if (row.image is not None) == has_image]
        prefixes = prefill_together(
            model, [asked[i][1] for i in at], [rows[i] for i in at], features
        )
        for i, prefix in zip(at, prefixes, strict=True):
            request, adapter = asked[i]
            temperature, top_p = HEATS[i % len(HEATS)]
            skill = SKILLS[Skill(request.skill)]
            ticket = decoder.add(
                DecodeRequest(
                    prefix=prefix,
                    adapter=adapter,
                    new_grammar=lambda s=skill, r=request: s.grammar(r, language),
                    settings=Settings(
                        temperature=temperature, top_p=top_p, max_tokens=20, max_objects=4
                    ),
                    num_rollouts=3,
                    seed=i,
                )
            )
            tickets[ticket] = i
    num_draws = 0
    while not decoder.is_idle:
        for ticket, traces in decoder.tick().items():
            i = tickets.pop(ticket)
            for trace in traces:
                row = Row(image=rows[i].image, prompt=rows[i].prompt, actions=trace.actions)
                scores = score(model, pack(model, [row], features), asked[i][1])
                for action, mine in zip(trace.actions, scores.terms_A3.tolist(), strict=True):
                    recorded = (action.token_logprob, *(action.bin_logprobs or ()))
                    assert recorded == pytest.approx(mine[: len(recorded)], abs=TOLERANCE[dtype])
                    num_draws += action.num_draws
    assert not tickets
    assert num_draws > 300
