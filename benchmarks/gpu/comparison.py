"""Everything that the tiny model computes, at one place and at another."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.gpu.differences import (
    drawn,
    flat,
    gradient,
    logprobs,
    relative_difference,
    relative_error,
    weights,
)
from benchmarks.gpu.places import Place, adapter_at, tasks, tiny_model
from benchmarks.gpu.report import Part, Report
from benchmarks.gpu.tiny_results import LONG_ANSWER, forward, kept_computed, kept_rollouts
from contract.engine import FileRef
from contract.skills import Settings
from trainer.adapters.lora import Adapter
from trainer.loading import LoadedModel

NUM_SAMPLED = 8


class Comparison:
    """The tiny model at one place against itself at another."""

    def __init__(
        self,
        report: Report,
        directory: Path,
        start: FileRef,
        got: Place,
        wanted: Place,
        bounds: dict[str, float],
    ):
        self._report = report
        self._directory = directory
        self._start = start
        self._got = got
        self._wanted = wanted
        self._bounds = bounds
        self._name = f"{' '.join(got)} - {' '.join(wanted)}"

    def run(self) -> None:
        greedy = replace(LONG_ANSWER, temperature=0.0)
        for name, work in (
            ("forward", self._forward),
            ("greedy", partial(self._rollouts, "greedy", greedy, 1)),
            ("sampled", partial(self._rollouts, "sampled", LONG_ANSWER, NUM_SAMPLED)),
            ("rl step", partial(self._step, "rl")),
            ("sft step", partial(self._step, "sft")),
        ):
            self._report.run(f"{self._name}: {name}", work, is_verdict=True)

    def _forward(self, part: Part) -> None:
        worst = worst_forward_errors(
            tiny_model(self._got),
            tiny_model(self._wanted),
            adapter_at(self._got, self._start),
            adapter_at(self._wanted, self._start),
        )
        part |= worst
        for name, value in worst.items():
            self._report.check(f"{self._name}: {name}", value, bound=self._bounds[name])

    def _rollouts(self, name: str, settings: Settings, num: int, part: Part) -> None:
        got = kept_rollouts(self._got, self._start, self._directory, settings, num=num)
        wanted = kept_rollouts(self._wanted, self._start, self._directory, settings, num=num)
        equal = [(a, b) for a, b in zip(got, wanted, strict=True) if drawn(a) == drawn(b)]
        part["num_rollouts"] = len(got)
        part["share_equal"] = len(equal) / len(got)
        part["logprob_gap_max"] = max(
            (abs(x - y) for a, b in equal for x, y in zip(logprobs(a), logprobs(b), strict=True)),
            default=0.0,
        )
        self._report.check(
            f"{self._name}: equal {name} rollouts",
            part["share_equal"],
            bound=self._bounds[name],
            is_floor=True,
        )

    def _step(self, mode: str, part: Part) -> None:
        got = kept_computed(self._got, self._start, self._directory, mode)
        wanted = kept_computed(self._wanted, self._start, self._directory, mode)
        origin = flat(adapter_at(("cpu", "float32"), self._start).tensors)
        part["errors"] = {
            # The loss of rollouts nearly cancels, so that an error relative to it says nothing.
            "loss": abs(got.tally.loss - wanted.tally.loss) / max(1.0, abs(wanted.tally.loss)),
            "grad_norm": relative_difference(got.grad_norm, wanted.grad_norm),
            "gradient": relative_error(gradient(got), gradient(wanted)),
            "weights": relative_error(weights(got), weights(wanted)),
        }
        # Where a gradient is next to nothing, Adam's first update is its sign: no bound on this.
        part["update"] = relative_error(weights(got) - origin, weights(wanted) - origin)
        part["values"] = {
            name: [getattr(computed, name) for computed in (got, wanted)]
            for name in ("grad_norm", "kl", "router_kl", "sft_loss")
        }
        part["values"]["loss"] = [got.tally.loss, wanted.tally.loss]
        part["values"]["logprob_gap_max"] = [got.tally.gap_max, wanted.tally.gap_max]
        for name, value in part["errors"].items():
            self._report.check(
                f"{self._name}: {mode} step, {name}", value, bound=self._bounds[name]
            )


def worst_forward_errors(
    got: LoadedModel, wanted: LoadedModel, got_adapter: Adapter, wanted_adapter: Adapter
) -> dict[str, float]:
    """The largest relative error of any task, by the name of what was computed."""
    worst: dict[str, float] = defaultdict(float)
    for image, request, _ in tasks():
        theirs = forward(wanted, wanted_adapter, image, request)
        for name, tensor in forward(got, got_adapter, image, request).items():
            worst[name] = max(worst[name], relative_error(tensor, theirs[name]))
    return dict(worst)
