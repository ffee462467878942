"""What memory is taken by: weights, answers, prompts, adapters, and the most at any time."""

from __future__ import annotations

import gc

import torch

from benchmarks.gpu.large_model import NUM_ROLLOUTS, QUERY, LargeModel, of_tokens
from benchmarks.gpu.local_finetune import LocalFinetune
from benchmarks.gpu.measuring import GIGA, peak_memory
from benchmarks.gpu.report import Part, Report
from contract.engine import MakeRollouts
from trainer.memory import num_adapter_parameters
from trainer.model.kv_blocks import block_bytes

RANKS = (8, 32, 8, 32)


def measure_memory(report: Report, large: LargeModel, part: Part) -> None:
    """Four finetunes that sample at the same time, each about a new picture."""
    engine, config = large.engine, large.config
    gc.collect()
    with peak_memory(part):
        outcomes = []
        for seed, rank in enumerate(RANKS):
            finetune = LocalFinetune(engine, large.directory, rank=rank, seed=100 + seed)
            command = MakeRollouts(
                adapter=finetune.adapter,
                request=QUERY,
                settings=of_tokens(),
                num_rollouts=NUM_ROLLOUTS,
                seed=seed,
            )
            outcomes.append(engine.begin("make_rollouts", command, [large.new_picture()]))
        while not all(outcome.done() for outcome in outcomes):
            engine.turn()
        for outcome in outcomes:
            outcome.result()
    cached = {
        sample.labels[0]: sample.value / GIGA
        for sample in engine.stats().samples
        if sample.name == "moontune_cache_bytes"
    }
    parameters = sum(num_adapter_parameters(config, rank) for rank in RANKS)
    block = block_bytes(config.text, large.dtype)
    part |= {
        "weights_gb": sum(p.nbytes for p in large.model.parameters()) / GIGA,
        "pool_gb": large.budgets.num_blocks * block / GIGA,
        "prefixes_gb": cached.get("prefixes", 0.0),
        "pictures_gb": cached.get("image_features", 0.0),
        "adapters_gb": parameters * large.dtype.itemsize / GIGA,
    }
    if torch.cuda.is_available():
        part["allocated_gb"] = torch.cuda.memory_allocated() / GIGA
    report.line(
        f"memory: weights {part['weights_gb']:.2f} GB, pool {part['pool_gb']:.2f}, prefixes "
        f"{part['prefixes_gb']:.2f}, {len(RANKS)} adapters {part['adapters_gb']:.2f}, "
        f"peak {part['peak_gb']:.2f} (held {part['peak_reserved_gb']:.2f})"
    )
