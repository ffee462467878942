"""What must be equal before `benchmarks.train` times anything: loss and every gradient.

Ours and TRL on our weights (`benchmarks.trl_equality`); rows, `prefix_grouper` and TRL, with and
without checkpointing, on the stock model, small, with and without a picture. The sampler's
log-probabilities differ from those of the weights, so that ratios are not 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks import trl_equality
from benchmarks.stock_model import SMALL
from benchmarks.train_rows import PrefixGrouped, Rows
from benchmarks.train_task import Task
from benchmarks.train_trl import Trl
from benchmarks.trl_equality import GAP, TOLERANCE, relative

TASK = Task(prefix=40, num_rollouts=6, num_tokens=9)
LOGPROB = -7.6
"""What a token of a random model has, among 2048."""


def check_all() -> dict[str, dict[str, float]]:
    """The worst differences.

    Raises:
        AssertionError: One is more than rounding.
    """
    return {"ours_vs_trl": trl_equality.check(), **_check_stock()}


def _check_stock() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for has_picture in (True, False):
        task = Task(**{**vars(TASK), "has_picture": has_picture})
        generator = torch.Generator().manual_seed(6)
        gaps_GA = torch.randn(task.num_rollouts, task.num_tokens, generator=generator)
        sampled_GA = LOGPROB + GAP * gaps_GA
        rows, grouped = Rows(task, SMALL), PrefixGrouped(task, SMALL)
        rows.sampled_GA = grouped.sampled_GA = sampled_GA
        sides: dict[str, Rows | Trl] = {"rows": rows, "prefix_grouper": grouped}
        for is_checkpointed in (True, False):
            trl = Trl(task, SMALL, is_checkpointed=is_checkpointed)
            trl.inputs["old_per_token_logps"] = sampled_GA
            sides["trl" if is_checkpointed else "trl, not checkpointed"] = trl
        results = {name: (side.step(), side.gradient()) for name, side in sides.items()}
        loss, gradient = results.pop("rows")
        for name, (other_loss, other_gradient) in results.items():
            differences = {
                "loss": abs(other_loss - loss),
                "gradient": _worst(other_gradient, gradient),
            }
            assert max(differences.values()) <= TOLERANCE, f"{name}, rows: {differences}"
            before = found.get(f"rows_vs_{name}", differences)
            found[f"rows_vs_{name}"] = {k: max(v, before[k]) for k, v in differences.items()}
    return found


def _worst(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(relative(found[name], wanted[name]) for name in wanted)
