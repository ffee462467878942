"""How far the sampler's log-probabilities lie from the trainer's, on the tiny model.

    python -m benchmarks.sampler_gap [--device cuda] [--out benchmarks/results/sampler-gap-cpu.json]

Rollouts of three skills, of the base model and of three adapters, grow in one batch; the trainer's
forward pass then scores them under the same weights. In bfloat16 the two add in another order, so
the log-probability of a draw differs. Besides: how many of them are the same, token for token and
bin for bin, when each request grows by itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.decoder_correctness import RANKS, drawn, logprobs_of
from benchmarks.gpu.growing import grown
from benchmarks.gpu.places import Place, tasks, tiny_model
from benchmarks.gpu.random_adapter import random_adapter
from contract.skills import Settings, Skill
from trainer.batching import Row
from trainer.decoder import DecodeRequest
from trainer.image_features import ImageFeatures
from trainer.packing import pack
from trainer.prefill import prefill
from trainer.scoring import score
from trainer.skills import SKILLS

WARM = Settings(temperature=1.0, max_tokens=48, max_objects=6)
NUM_ROLLOUTS = 8


@torch.no_grad()
def measure(place: Place) -> dict[str, Any]:
    """Gaps of all draws, and the share of rollouts that company changes."""
    loaded = tiny_model(place)
    model, config = loaded.model, loaded.model.config.text
    adapters = [
        None if rank is None else random_adapter(config, rank, seed=rank).to(place[0])
        for rank in RANKS
    ]
    features = ImageFeatures(model).of([image for image, _, _ in tasks()])
    rows, requests = [], []
    for number, (image, asked, _) in enumerate(tasks()):
        skill, adapter = SKILLS[Skill(asked.skill)], adapters[number % len(adapters)]
        row = Row(image=image.digest, prompt=tuple(skill.prompt(asked, loaded.language)))
        rows.append(row)
        requests.append(
            DecodeRequest(
                prefix=prefill(model, adapter, row, features),
                adapter=adapter,
                new_grammar=lambda skill=skill, asked=asked: skill.grammar(asked, loaded.language),
                settings=WARM,
                num_rollouts=NUM_ROLLOUTS,
                seed=number,
            )
        )
    together = grown(model, requests)
    gaps: list[float] = []
    num_equal = num_rollouts = 0
    for row, request, traces in zip(rows, requests, together, strict=True):
        filled = [replace(row, actions=trace.actions) for trace in traces]
        scores = score(model, pack(model, filled, features), request.adapter)
        sampled_A3 = torch.tensor(
            [(*logprobs_of(a), 0.0, 0.0)[:3] for trace in traces for a in trace.actions]
        )
        gap_A3 = (scores.terms_A3.float().cpu() - sampled_A3).abs()
        gaps += gap_A3[scores.is_draw_A3.cpu()].tolist()
        (alone,) = grown(model, [request])
        num_equal += sum(drawn(a) == drawn(b) for a, b in zip(traces, alone, strict=True))
        num_rollouts += len(traces)
    return {
        "rollouts": num_rollouts,
        "draws": len(gaps),
        "gap_mean": statistics.mean(gaps),
        "gap_p99": sorted(gaps)[int(0.99 * len(gaps))],
        "gap_max": max(gaps),
        "same_alone": num_equal / num_rollouts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    is_gpu = arguments.device.startswith("cuda")
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if is_gpu else platform.machine() + " cpu",
        "torch": torch.__version__,
    }
    for dtype in ("float32", "bfloat16"):
        found[dtype] = measure((arguments.device, dtype))
        print(dtype, json.dumps(found[dtype]), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
