"""Whether a GPU computes what the CPU computes, and how far the trainer is from what a GPU can do.

    python -m benchmarks.cuda --out DIR

    correctness     the bundled tiny model: CPU float32, CUDA float32, CUDA bfloat16
    learning        the word task of `benchmarks.learning`, in bfloat16, through the engine
    full geometry   random weights of the sizes of Moondream 3 preview: load, encode, sample, train
    kernels         what a decoding step and a train step launch, and how busy the GPU is

No server, no network. DIR/cuda.json is written again after every part, so that a run that is cut
off has lost nothing but the part it was in. Exit status 1: a correctness check failed. Without a
GPU the CPU stands in for it, which tests this script and nothing else (`--scale small`).

Random weights route more evenly than trained ones, so a decoding step touches about as many experts
as it ever could; speeds at full geometry are those of the code, not of a particular checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from contract.engine import (
    AdapterRef,
    Answer,
    FileRef,
    MakeRollouts,
    RolloutsMade,
    StepTrained,
    TrainStep,
)
from contract.groups import Group, RLGroup, SFTGroup, TrainOptions
from contract.skills import (
    DetectRequest,
    FinishReason,
    Pixels,
    QueryRequest,
    QueryTarget,
    ReturnedRollout,
    Rollout,
    Settings,
    Skill,
    Target,
    TunableRequest,
)
from examples.shapes import draw_scene
from tiny.evaluate import as_pixels
from tiny.model_config import TINY
from tiny.packing import as_contract
from tiny.scenes import heldout_example
from tiny.tokenizer import tokenizer_config
from trainer.adapters.bank import AdapterBank
from trainer.adapters.lora import Adapter
from trainer.batching import Row, make_batch
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS, TrainerEngine, warm_up
from trainer.image_features import ImageFeatures
from trainer.loading import LoadedModel, checkpoint_digest, choose_device, load
from trainer.model.checkpoint import save_model
from trainer.model.config import MoondreamConfig
from trainer.model.crops import make_crops, tiling
from trainer.model.layouts import FP8
from trainer.model.moe import ExpertWeights, MoeMlp, widened
from trainer.model.moondream import Moondream
from trainer.model.tokenizer import TOKENIZER_FILE
from trainer.model.weight_files import WEIGHTS_FILE
from trainer.optim import AdamState
from trainer.skills import SKILLS
from trainer.storage import write_tensors
from trainer.train_step import Computed, compute_step, plan_step

ROOT = Path(__file__).parent.parent
TINY_CHECKPOINT = ROOT / "tiny" / "checkpoint"
ORACLE_TESTS = "tests/reference/model/test_model_oracle.py"

NUM_SCENES = 20
NUM_SAMPLED = 8
TUNABLE = ("query", "point", "detect")
TINY_RANK = 8
FULL_RANK = 32
LONG_ANSWER = Settings(temperature=1.0, max_tokens=48, max_objects=6)

# Relative L2 errors, the largest of all cases, and shares of equal rollouts. Float32 differs from
# float32 by the order of additions alone, about 1e-6 a pass; bfloat16 keeps 8 bits, and a near-tie
# may choose another expert.
FLOAT32_BOUNDS = {
    "features": 1e-5,
    "hidden": 1e-5,
    "logits": 1e-5,
    "coordinates": 1e-5,
    "greedy": 1.0,
    "sampled": 0.98,
    "loss": 1e-5,
    "grad_norm": 1e-4,
    "gradient": 1e-3,
    "weights": 1e-4,
}
BFLOAT16_BOUNDS = {
    "features": 0.02,
    "hidden": 0.2,
    "logits": 0.2,
    "coordinates": 0.2,
    "greedy": 0.1,
    "sampled": 0.3,
    "loss": 0.05,
    "grad_norm": 0.2,
    "gradient": 0.3,
    "weights": 0.03,
}
NUM_WORD_STEPS = 15
MOST_LOSS_LEFT = 0.5
MOST_LOSS_GAP = 0.1

REPEATS = 3
GIGA = 1e9


# --- the report ---


class Report:
    """What was found so far, on disk after every part."""

    def __init__(self, directory: Path, machine: dict[str, Any], seconds: float):
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "cuda.json"
        self._started = time.monotonic()
        self._seconds = seconds
        self._lines: list[str] = []
        self.checks: list[dict[str, Any]] = []
        self.parts: dict[str, dict[str, Any]] = {}
        self._content = {"machine": machine, "checks": self.checks, "parts": self.parts}
        self.save()

    def run(
        self, name: str, work: Callable[[dict[str, Any]], None], *, is_verdict: bool = False
    ) -> bool:
        """Run one part, which fills a dictionary; what it raises is recorded and goes no further.

        Args:
            is_verdict: A part that does not come to its end counts as a failed check.
        """
        part: dict[str, Any] = {"status": "running"}
        self.parts[name] = part
        started = time.monotonic()
        if started - self._started > self._seconds:
            part["status"] = "skipped"
        else:
            try:
                work(part)
                part["status"] = "done"
            except Exception as error:
                part["status"] = "failed"
                part["traceback"] = traceback.format_exc()
                # One line; a refusal to load may name hundreds of tensors.
                part["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        is_done = part["status"] == "done"
        part["part_seconds"] = round(time.monotonic() - started, 2)
        if not is_done:
            self._lines.append(f"{part['status'].upper()}  {name}: {part.get('error', '')}")
            if is_verdict:
                self.checks.append({"name": name, "passed": False})
        self.save()
        shown = {key: value for key, value in part.items() if key != "traceback"}
        print(f"[{time.monotonic() - self._started:5.1f} s] {name}: {_short(shown)}", flush=True)
        return is_done

    def check(self, name: str, value: float, *, bound: float, is_floor: bool = False) -> None:
        """A verdict: `value` may not exceed `bound` (or not fall below it)."""
        is_passed = value >= bound if is_floor else value <= bound  # false for NaN
        self.checks.append(
            {
                "name": name,
                "value": value,
                "bound": bound,
                "is_floor": is_floor,
                "passed": is_passed,
            }
        )
        sign = ">=" if is_floor else "<="
        verdict = "ok    " if is_passed else "FAILED"
        self._lines.append(f"{verdict}  {name:58s} {value:8.1e}  wanted {sign} {bound:.2g}")

    def line(self, text: str) -> None:
        """One line of the final table."""
        self._lines.append(f"        {text}")

    def save(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._content, indent=1) + "\n")
        temporary.replace(self._path)

    def print_table(self) -> None:
        print("\n" + "\n".join(self._lines), flush=True)


def _short(values: dict[str, Any]) -> str:
    """The plain values of a dictionary on one line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
        if isinstance(value, int | float | str)
    )


def machine_facts(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    facts["free_disk_gb"] = shutil.disk_usage(tempfile.gettempdir()).free / GIGA
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_memory_gb"] = torch.cuda.get_device_properties(0).total_memory / GIGA
        facts["cuda"] = torch.version.cuda
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        facts["driver"] = found.stdout.strip()
    return facts


# --- clocks ---


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any]) -> float:
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def median_seconds(work: Callable[[], Any], *, repeats: int = REPEATS) -> float:
    """After one run to warm up."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


@contextmanager
def peak_memory(part: dict[str, Any]) -> Iterator[None]:
    """Record the most bytes that tensors took on the GPU, the weights included."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield
    part["peak_gb"] = torch.cuda.max_memory_allocated() / GIGA  # 0 without a GPU


# --- one finetune, in process ---


class LocalFinetune:
    """What the API does around an engine: it names files and remembers the newest state."""

    def __init__(
        self,
        engine: TrainerEngine,
        directory: Path,
        *,
        rank: int,
        seed: int = 1,
        weights: FileRef | None = None,
    ):
        self._engine = engine
        self._directory = directory
        self._number = count()
        self._optimizer: FileRef | None = None
        self.adapter = AdapterRef(
            finetune_id=f"finetune-{seed}", step=0, rank=rank, seed=seed, weights=weights
        )

    def rollouts(
        self, request: TunableRequest, image: Pixels, settings: Settings, *, num: int, seed: int
    ) -> RolloutsMade:
        command = MakeRollouts(
            adapter=self.adapter,
            request=request,
            settings=settings,
            num_rollouts=num,
            seed=seed,
        )
        return self._engine.make_rollouts(command, [image])

    def train_step(
        self, groups: Sequence[Group], images: Sequence[Pixels], *, lr: float
    ) -> StepTrained:
        name = f"{self.adapter.finetune_id}-{next(self._number)}"
        command = TrainStep(
            adapter=self.adapter,
            optimizer=self._optimizer,
            groups=tuple(groups),
            lr=lr,
            options=TrainOptions(),
            weights_path=str(self._directory / f"{name}.weights"),
            optimizer_path=str(self._directory / f"{name}.optimizer"),
        )
        trained = self._engine.train_step(command, images)
        if trained.applied:
            self._optimizer = trained.optimizer
            step = self.adapter.step + 1
            self.adapter = replace(self.adapter, step=step, weights=trained.weights)
        return trained


def config_of(model: Moondream) -> MoondreamConfig:
    return cast("MoondreamConfig", model.config)


def returned(rollout: Rollout) -> ReturnedRollout:
    return ReturnedRollout(**vars(rollout))


def drawn(rollout: Rollout) -> tuple[Any, ...]:
    """Everything that was drawn, without its log-probabilities."""
    return (
        rollout.thinking_tokens,
        rollout.answer_tokens,
        rollout.coords,
        rollout.sizes,
        rollout.finish_reason,
    )


# --- correctness ---


Place = tuple[str, str]
"""Device and dtype."""


@cache
def tiny_model(place: Place) -> LoadedModel:
    return load(TINY_CHECKPOINT, name="tiny", device=place[0], dtype=place[1])


@cache
def tasks() -> tuple[tuple[Pixels, TunableRequest, Target], ...]:
    """A query, a point and a detect task about each of the held-out scenes."""
    found: list[tuple[Pixels, TunableRequest, Target]] = []
    for index in range(NUM_SCENES):
        for skill in TUNABLE:
            example = heldout_example(index, num_tasks=1, weights={skill: 1.0})
            request, target = as_contract(example.tasks[0])
            image = as_pixels(example.scene)
            found.append((image, cast("TunableRequest", request), cast("Target", target)))
    return tuple(found)


def start_weights(directory: Path) -> FileRef:
    """The file of an adapter of which every factor matters; a fresh one has zeros."""
    adapter = Adapter.fresh(tiny_model(("cpu", "float32")).model.config.text, TINY_RANK, seed=1)
    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: 0.05 * torch.randn(tensor.shape, generator=generator)
        if name.endswith("_b")
        else tensor
        for name, tensor in adapter.tensors.items()
    }
    return write_tensors(directory / "start.weights", tensors, {})


def adapter_at(place: Place, start: FileRef) -> Adapter:
    model = tiny_model(place).model
    reference = AdapterRef(finetune_id="start", step=0, rank=TINY_RANK, seed=1, weights=start)
    return AdapterBank(model.config.text, model.text.wte.device).adapter(reference)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """||got - wanted|| / ||wanted||, in double precision on the CPU."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    return float((got - wanted).norm() / wanted.norm())


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].detach().float().cpu().flatten() for name in sorted(tensors)])


def weights(computed: Computed) -> Tensor:
    assert computed.tensors is not None, computed.skip_reason
    return flat(computed.tensors)


def gradient(computed: Computed) -> Tensor:
    """After one update the mean moment is a tenth of the clipped gradient."""
    assert computed.optimizer is not None, computed.skip_reason
    return flat(computed.optimizer.mean)


def relative_difference(got: float | None, wanted: float | None) -> float:
    assert got is not None
    assert wanted is not None
    return abs(got - wanted) / abs(wanted)


@torch.no_grad()
def forward(
    loaded: LoadedModel, adapter: Adapter, image: Pixels, request: TunableRequest
) -> dict[str, Tensor]:
    """Image tokens, and what stands behind a prompt."""
    model = loaded.model
    features = ImageFeatures(model).of([image])
    prompt = SKILLS[Skill(request.skill)].prompt(request, loaded.language)
    batch = make_batch(model, [Row(image=image.digest, prompt=prompt)], features)
    hidden_1TD = model.text(
        batch.embeds_BTD,
        positions_BT=batch.positions_1T,
        attention_mask_BTS=batch.mask_1TT,
        adapter=adapter,
    )
    return {
        "features": features[image.digest],
        "hidden": hidden_1TD,
        "logits": model.text.logits(hidden_1TD[:, -1]),
        "coordinates": model.region.coord_logits(hidden_1TD[:, -1]),
    }


def rollouts_at(
    place: Place, start: FileRef, directory: Path, settings: Settings, *, num: int
) -> list[Rollout]:
    """The rollouts of all tasks, every second task with top-p."""
    engine = TrainerEngine(tiny_model(place))
    finetune = LocalFinetune(engine, directory, rank=TINY_RANK, weights=start)
    made: list[Rollout] = []
    for number, (image, request, _) in enumerate(tasks()):
        asked = replace(settings, top_p=0.9 if number % 2 else 1.0)
        made += finetune.rollouts(request, image, asked, num=num, seed=number).rollouts
    return made


@cache
def step_commands(start: FileRef, directory: Path) -> dict[str, tuple[TrainStep, list[Pixels]]]:
    """One RL and one SFT step over the first tasks; the rollouts were drawn on the CPU."""
    engine = TrainerEngine(tiny_model(("cpu", "float32")))
    finetune = LocalFinetune(engine, directory, rank=TINY_RANK, weights=start)
    images: list[Pixels] = []
    groups: dict[str, list[Group]] = {"rl": [], "sft": []}
    for number, (image, request, target) in enumerate(tasks()[:9]):
        made = finetune.rollouts(request, image, LONG_ANSWER, num=6, seed=1000 + number).rollouts
        placed = replace(request, image=number)
        images.append(image)
        groups["rl"].append(
            RLGroup(
                request=placed,
                rollouts=tuple(map(returned, made)),
                rewards=tuple(float((number + i) % 3) for i in range(len(made))),
            )
        )
        groups["sft"].append(SFTGroup(request=placed, targets=(target,)))
    return {
        mode: (
            TrainStep(
                adapter=finetune.adapter,
                optimizer=None,
                groups=tuple(of_mode),
                lr=1e-3,
                options=TrainOptions(beta=0.05),
                weights_path="",
                optimizer_path="",
            ),
            images,
        )
        for mode, of_mode in groups.items()
    }


def computed_at(place: Place, start: FileRef, directory: Path, mode: str) -> Computed:
    loaded = tiny_model(place)
    command, images = step_commands(start, directory)[mode]
    adapter = adapter_at(place, start)
    return compute_step(
        loaded.model,
        adapter,
        AdamState.fresh(adapter.tensors),
        plan_step(command, images, config_of(loaded.model), loaded.language),
        ImageFeatures(loaded.model).of(images),
        command,
        max_tokens=2048,
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


def compare_fp8(device: str, start: FileRef, report: Report, part: dict[str, Any]) -> None:
    """Experts that stay in fp8 on the device, against the same numbers widened on the CPU."""
    places = (device, "float32"), ("cpu", "float32")
    kept, wide = (
        load(TINY_CHECKPOINT, name="tiny", device=place[0], dtype=place[1]) for place in places
    )
    pairs = zip(kept.model.modules(), wide.model.modules(), strict=True)
    for ours, theirs in pairs:
        if isinstance(ours, ExpertWeights) and isinstance(theirs, ExpertWeights):
            weight_EOI = theirs.weight.detach()
            scale_EO = weight_EOI.abs().amax(-1) / torch.finfo(FP8).max
            rounded_EOI = (weight_EOI / scale_EO[..., None]).to(FP8)
            theirs.weight.copy_(widened(rounded_EOI, scale_EO))
            ours.keep_fp8(rounded_EOI.to(device), scale_EO.to(device))
    adapters = (adapter_at(place, start) for place in places)
    part |= worst_forward_errors(kept, wide, *adapters)
    report.check(f"{device} fp8 experts: logits", part["logits"], bound=FLOAT32_BOUNDS["logits"])


# Most results are compared twice.
kept_rollouts = cache(rollouts_at)
kept_computed = cache(computed_at)


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

    def _forward(self, part: dict[str, Any]) -> None:
        worst = worst_forward_errors(
            tiny_model(self._got),
            tiny_model(self._wanted),
            adapter_at(self._got, self._start),
            adapter_at(self._wanted, self._start),
        )
        part |= worst
        for name, value in worst.items():
            self._report.check(f"{self._name}: {name}", value, bound=self._bounds[name])

    def _rollouts(self, name: str, settings: Settings, num: int, part: dict[str, Any]) -> None:
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

    def _step(self, mode: str, part: dict[str, Any]) -> None:
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


def repeat(
    report: Report, directory: Path, start: FileRef, place: Place, part: dict[str, Any]
) -> None:
    """Whether the same call gives the same bits twice; a finding, not a verdict."""
    again = rollouts_at(place, start, directory, LONG_ANSWER, num=NUM_SAMPLED)
    found: dict[str, Any] = {
        "rollouts": again == kept_rollouts(place, start, directory, LONG_ANSWER, num=NUM_SAMPLED)
    }
    for mode in ("rl", "sft"):
        one = weights(kept_computed(place, start, directory, mode))
        two = weights(computed_at(place, start, directory, mode))
        found[f"{mode} step"] = torch.equal(one, two)
        part[f"{mode} step, error"] = relative_error(two, one)
    part["equal"] = found
    part["summary"] = _short(found)
    report.line(f"the same bits twice, {' '.join(place)}: {_short(found)}")


def logprobs(rollout: Rollout) -> list[float]:
    """All log-probabilities of a rollout in one list."""
    given = rollout.logprobs
    sizes = [value for pair in given["sizes"] for value in pair]
    ends = [value for value in (given["separator"], given["stop"]) if value is not None]
    return [*given["thinking"], *given["answer"], *given["coords"], *sizes, *ends]


def start_oracle(device: str) -> subprocess.Popen[str]:
    """The tests against an independent implementation, on this device, in their own process."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider"),
            *("-o", "addopts=--import-mode=importlib", ORACLE_TESTS),
        ],
        cwd=ROOT,
        env={**os.environ, "MOONTUNE_TEST_DEVICE": device},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_oracle(report: Report, tests: subprocess.Popen[str], part: dict[str, Any]) -> None:
    output, _ = tests.communicate(timeout=240)
    part["summary"] = output.strip().splitlines()[-1] if output.strip() else "no output"
    if tests.returncode:
        part["output"] = output[-6000:]
    report.check("oracle: exit status of its tests", abs(tests.returncode), bound=0.0)


# --- learning ---


WORD = QueryRequest(question="what color is the shape?", image=0)
ONE_WORD = Settings(temperature=0.0, max_tokens=8)
FIRST_HELD_OUT_SEED = 2**41


def teal_scene(seed: int) -> Pixels:
    return as_pixels(draw_scene(seed, num_shapes=(1, 1), colors=("teal",)))


def learn_word(device: str, directory: Path, report: Report, part: dict[str, Any]) -> None:
    """Supervised steps on the word for a colour that the base has never seen.

    The verdict is on the losses, against those of the CPU in float32. Accuracy half-way through
    learning jumps from step to step in any precision, so it is told and not judged.
    """
    losses, before, after = word_steps((device, "bfloat16"), directory)
    wanted, _, wanted_after = word_steps(("cpu", "float32"), directory)
    part |= {"before": before, "after": after, "wanted_after": wanted_after}
    part["losses"] = [losses, wanted]
    part["fall"] = losses[-1] / losses[0]
    part["gap"] = max(abs(a - b) / b for a, b in zip(losses, wanted, strict=True))
    report.check("word task: last loss over first", part["fall"], bound=MOST_LOSS_LEFT)
    report.check("word task: losses against cpu float32", part["gap"], bound=MOST_LOSS_GAP)
    report.line(
        f"word task, {NUM_WORD_STEPS} steps: accuracy {before:.2f} -> {after:.2f} "
        f"(cpu float32: {wanted_after:.2f}), loss {losses[0]:.2f} -> {losses[-1]:.2f}"
    )


def word_steps(place: Place, directory: Path) -> tuple[list[float], float, float]:
    """The losses of all steps, and the accuracy on held-out pictures before and after."""
    engine = TrainerEngine(tiny_model(place))
    own_directory = directory / "-".join(("word", *place))
    finetune = LocalFinetune(engine, own_directory, rank=TINY_RANK, seed=3)
    held_out = [teal_scene(FIRST_HELD_OUT_SEED + index) for index in range(40)]

    def accuracy() -> float:
        made = [finetune.rollouts(WORD, image, ONE_WORD, num=1, seed=0) for image in held_out]
        return statistics.mean(one.rollouts[0].output["answer"] == "teal" for one in made)

    before = accuracy()
    losses: list[float] = []
    for step in range(NUM_WORD_STEPS):
        images = [teal_scene(8 * step + i) for i in range(8)]
        groups = [
            SFTGroup(request=replace(WORD, image=i), targets=(QueryTarget(answer="teal"),))
            for i in range(len(images))
        ]
        loss = finetune.train_step(groups, images, lr=1e-2).sft_loss
        losses.append(math.nan if loss is None else loss)
    return losses, before, accuracy()


# --- a checkpoint of full geometry ---


def geometry(scale: str) -> MoondreamConfig:
    """`full`: the published sizes of Moondream 3 preview; `small`: those of the tiny model.

    Both with the special ids of the tiny model, whose tokenizer they get.
    """
    sizes: dict[str, Any] = TINY if scale == "small" else {}
    return MoondreamConfig.from_published(
        {"model_type": "moondream3", "config": {**sizes, "tokenizer": tokenizer_config()}}
    )


def write_checkpoint(directory: Path, *, scale: str, device: str) -> None:
    """Random weights in bfloat16, in the published layout, with a tokenizer whose ids fit.

    The end token is made unlikely and the coordinate token likely, so that answers take the length
    that was asked for.
    """
    started = time.monotonic()
    config = geometry(scale)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device), torch.no_grad():
        model = Moondream(config)
        model.text.lm_head.bias[config.tokenizer.eos_id] = -3.0
        model.text.lm_head.bias[config.tokenizer.coord_id] = 3.0
    synchronize()
    made = time.monotonic()
    save_model(model, directory)
    del model
    shutil.copy(TINY_CHECKPOINT / TOKENIZER_FILE, directory / TOKENIZER_FILE)
    saved = time.monotonic()
    checkpoint_digest(directory)
    facts = {
        "init_seconds": made - started,
        "save_seconds": saved - made,
        "digest_seconds": time.monotonic() - saved,
        "file_gb": (directory / WEIGHTS_FILE).stat().st_size / GIGA,
    }
    print(json.dumps(facts))


def start_writer(directory: Path, *, scale: str, device: str) -> subprocess.Popen[str]:
    """Write the checkpoint in a process of its own, beside the checks of correctness."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.cuda", "--write-checkpoint", str(directory)),
            *("--scale", scale, "--device", device),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# --- what the hardware can do ---


def measure_hardware(part: dict[str, Any], device: str) -> None:
    """Bytes moved per second by a copy (read and written), operations of a bfloat16 product."""
    is_gpu = device == "cuda"
    source = torch.empty((4 if is_gpu else 1) << (30 if is_gpu else 24), dtype=torch.int8)
    source = source.to(device)
    target = torch.empty_like(source)
    side = 8192 if is_gpu else 256
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    copying = median_seconds(lambda: target.copy_(source), repeats=9)
    multiplying = median_seconds(lambda: torch.mm(a, b), repeats=9)
    part["bandwidth_gb_per_second"] = 2 * source.nbytes / copying / GIGA
    part["bfloat16_tflops"] = 2 * side**3 / multiplying / 1e12


class Floors:
    """The least time that the hardware could take, from what was measured of it."""

    def __init__(self, model: Moondream, hardware: dict[str, Any]):
        self._config = model.config.text
        self._bytes_per_second = hardware["bandwidth_gb_per_second"] * GIGA
        self._flops = hardware["bfloat16_tflops"] * 1e12
        weights = {n: p for n, p in model.text.named_parameters() if n != "wte"}
        experts = {n: p for n, p in weights.items() if p.ndim == 3}
        num_experts = self._config.moe.num_experts if self._config.moe else 1
        self._shared = sum(p.numel() for n, p in weights.items() if n not in experts)
        self._head = model.text.lm_head.weight.numel()
        self._each_expert = sum(p.numel() for p in experts.values()) / num_experts
        self._num_bytes = model.text.wte.element_size()

    def decode(self, *, num_experts: float, num_rows: int, context: float) -> dict[str, float]:
        """One decoding step: every weight that is used is read once; and with the cache.

        Args:
            num_experts: Different experts that a layer uses in the step, mean over layers.
        """
        weights = self._num_bytes * (self._shared + num_experts * self._each_expert)
        config = self._config
        cache = self._num_bytes * 2 * config.n_layers * config.dim * context * num_rows
        return {
            "distinct_experts": num_experts,
            "weights_gb": weights / GIGA,
            "cache_gb": cache / GIGA,
            "roofline_ms": 1e3 * weights / self._bytes_per_second,
            "roofline_with_cache_ms": 1e3 * (weights + cache) / self._bytes_per_second,
        }

    def train(self, *, num_rows: int, length: int, num_actions: int) -> float:
        """Seconds of a step as it is computed now: every row whole, reference, forward, backward.

        The base is frozen, so that backward costs as much as forward; the head reads actions alone.
        """
        config = self._config
        active = config.moe.experts_per_token if config.moe else 0
        per_position = self._shared - self._head + active * self._each_expert
        attention = 4 * config.n_layers * length**2 * config.dim
        forward_flops = 2 * per_position * length + attention
        head_flops = 2 * self._head * num_actions
        return num_rows * (3 * forward_flops + attention + 3 * head_flops) / self._flops


@contextmanager
def counted_experts(model: Moondream) -> Iterator[list[int]]:
    """Collect, for every decoding step and expert layer, how many experts were chosen."""
    counts: list[int] = []

    def note(router: torch.nn.Module, _: Any, logits_BTE: Tensor) -> None:
        if logits_BTE.shape[1] == 1:
            chosen = logits_BTE.topk(chosen_per_token, dim=-1).indices
            counts.append(len(chosen.unique()))

    layers = [block.mlp for block in model.text.blocks if isinstance(block.mlp, MoeMlp)]
    chosen_per_token = layers[0].experts_per_token if layers else 0
    hooks = [layer.router.register_forward_hook(note) for layer in layers]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


# --- full geometry ---


def noise_picture(width: int, height: int, seed: int) -> Pixels:
    data = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    return Pixels(height=height, width=width, digest=digest, data=data)


QUERY = QueryRequest(question="how many circles are there, and what is left of them?", image=0)
DETECT = DetectRequest(object="red circle", image=0)
NUM_ROLLOUTS = 16
NUM_ACTIONS = 24


class LargeModel:
    """A loaded model of full geometry with one finetune on it."""

    def __init__(self, loaded: LoadedModel, directory: Path, hardware: dict[str, Any]):
        self.model = loaded.model
        self.language = loaded.language
        self.engine = TrainerEngine(loaded)
        self.finetune = LocalFinetune(self.engine, directory, rank=FULL_RANK, seed=5)
        self.floors = Floors(loaded.model, hardware)
        self.picture = noise_picture(378, 378, 0)
        self._adapter = Adapter.fresh(
            loaded.model.config.text, FULL_RANK, seed=5, device=loaded.model.text.wte.device
        )
        self._features = ImageFeatures(loaded.model)

    def num_prompt(self, request: TunableRequest) -> int:
        """Positions before the answer."""
        prompt = SKILLS[Skill(request.skill)].prompt(request, self.language)
        row = Row(image=self.picture.digest, prompt=prompt)
        return row.num_positions(self.model.config.vision.num_image_tokens)

    def roll(self, request: TunableRequest, num: int, **limits: int) -> tuple[Rollout, ...]:
        settings = Settings(temperature=1.0, **limits)
        return self.finetune.rollouts(request, self.picture, settings, num=num, seed=11).rollouts

    def groups(self, num: int) -> tuple[list[Group], list[Pixels]]:
        """Groups of sixteen rollouts of 24 tokens, each about a picture of its own."""
        groups: list[Group] = []
        pictures = [noise_picture(378, 378, seed) for seed in range(num)]
        settings = Settings(temperature=1.0, max_tokens=NUM_ACTIONS)
        for index, picture in enumerate(pictures):
            made = self.finetune.rollouts(QUERY, picture, settings, num=NUM_ROLLOUTS, seed=index)
            groups.append(
                RLGroup(
                    request=replace(QUERY, image=index),
                    rollouts=tuple(map(returned, made.rollouts)),
                    rewards=tuple(float(i % 2) for i in range(NUM_ROLLOUTS)),
                )
            )
        return groups, pictures

    def compute(self, groups: Sequence[Group], pictures: Sequence[Pixels]) -> Computed:
        """A train step without its files."""
        command = TrainStep(
            adapter=self.finetune.adapter,
            optimizer=None,
            groups=tuple(groups),
            lr=1e-5,
            options=TrainOptions(),
            weights_path="",
            optimizer_path="",
        )
        return compute_step(
            self.model,
            self._adapter,
            AdamState.fresh(self._adapter.tensors),
            plan_step(command, pictures, config_of(self.model), self.language),
            self._features.of(pictures),
            command,
            max_tokens=DEFAULT_MICRO_BATCH_TOKENS,
        )


def full_geometry(
    report: Report, device: str, directory: Path, writer: subprocess.Popen[str]
) -> None:
    """Load a model as large as the published one, then time every verb."""
    report.run("hardware", lambda part: measure_hardware(part, device))
    report.run("write", lambda part: wait_for_checkpoint(part, writer))
    found: list[LargeModel] = []

    def load_it(part: dict[str, Any]) -> None:
        loaded = timed_load(report, part, directory / "checkpoint", device)
        found.append(LargeModel(loaded, directory, report.parts["hardware"]))
        part["first_answer_seconds"] = seconds_of(lambda: warm_up(found[0].engine))

    is_loaded = report.run("load", load_it)
    shutil.rmtree(directory / "checkpoint", ignore_errors=True)
    if not is_loaded:
        return
    large = found[0]
    for width, height in ((378, 378), (1200, 900)):
        picture = noise_picture(width, height, 0)
        work = partial(time_encoding, report, large, picture)
        report.run(f"encode {width} x {height}", work)
    for num in (1, NUM_ROLLOUTS):
        work = partial(
            time_decoding, report, large, QUERY, num, {"max_tokens": 1}, {"max_tokens": 64}
        )
        report.run(f"query, {num} rollouts", work)
    work = partial(
        time_decoding, report, large, DETECT, NUM_ROLLOUTS, {"max_objects": 1}, {"max_objects": 8}
    )
    report.run(f"detect, {NUM_ROLLOUTS} rollouts", work)
    report.run("answer", partial(time_answer, report, large))
    for num in (1, 4):
        work = partial(time_training, report, large, num)
        report.run(f"train step, {num} x {NUM_ROLLOUTS} rollouts", work)
    report.run("kernels of a decoding step", partial(profile_decoding, report, large))
    report.run("kernels of a train step", partial(profile_training, report, large))


def wait_for_checkpoint(part: dict[str, Any], writer: subprocess.Popen[str]) -> None:
    output, _ = writer.communicate(timeout=240)
    if writer.returncode:
        raise RuntimeError(f"the checkpoint was not written: {output[-3000:]}")
    part.update(json.loads(output.strip().splitlines()[-1]))


def timed_load(report: Report, part: dict[str, Any], directory: Path, device: str) -> LoadedModel:
    """Through the real loader; the file was written a moment ago, so it comes from memory."""
    with peak_memory(part):
        started = time.monotonic()
        loaded = load(directory, name="random", device=device, dtype="bfloat16")
        synchronize()
        part["load_seconds"] = time.monotonic() - started
    part["num_parameters"] = loaded.info.num_parameters
    report.line(
        f"load {loaded.info.num_parameters / 1e9:.2f} B: {part['load_seconds']:.1f} s (SHA-256 "
        f"alone {report.parts['write']['digest_seconds']:.1f} s), peak {part['peak_gb']:.1f} GB"
    )
    return loaded


def time_encoding(report: Report, large: LargeModel, picture: Pixels, part: dict[str, Any]) -> None:
    vision = large.model.config.vision
    pixels_HWC = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    rows, cols = tiling(picture.height, picture.width, vision)
    part["num_crops"] = 1 if (rows, cols) == (1, 1) else 1 + rows * cols
    part["crops_ms"] = 1e3 * median_seconds(lambda: make_crops(pixels_HWC, vision))
    with peak_memory(part):
        # A new cache every time, because the second look at a picture is free.
        part["encode_ms"] = 1e3 * median_seconds(lambda: ImageFeatures(large.model).of([picture]))
    report.line(
        f"encode {picture.width} x {picture.height}, {part['num_crops']} crops: "
        f"{part['encode_ms']:.1f} ms, of these {part['crops_ms']:.1f} ms cutting on the CPU"
    )


def time_decoding(
    report: Report,
    large: LargeModel,
    request: TunableRequest,
    num: int,
    short: dict[str, int],
    long: dict[str, int],
    part: dict[str, Any],
) -> None:
    """Time short and long answers; what they differ by is decoding."""
    shortest = large.roll(request, num, **short)
    with counted_experts(large.model) as counts:
        longest = large.roll(request, num, **long)
    least, most = (max(map(num_drawn, made)) for made in (shortest, longest))
    with peak_memory(part):
        short_seconds = median_seconds(lambda: large.roll(request, num, **short))
        long_seconds = median_seconds(lambda: large.roll(request, num, **long))
    num_prompt = large.num_prompt(request)
    floors = large.floors.decode(
        num_experts=statistics.mean(counts) if counts else 0.0,
        num_rows=num,
        context=num_prompt + (least + most) / 2,
    )
    num_tokens = sum(map(num_drawn, longest))
    step_ms = 1e3 * (long_seconds - short_seconds) / (most - least)
    part |= {
        "num_prompt_positions": num_prompt,
        "num_tokens": num_tokens,
        "short_ms": 1e3 * short_seconds,
        "long_ms": 1e3 * long_seconds,
        "decode_ms_per_step": step_ms,
        "tokens_per_second": num_tokens / long_seconds,
        **floors,
        "ratio_to_roofline": step_ms / floors["roofline_ms"],
        "ratio_to_roofline_with_cache": step_ms / floors["roofline_with_cache_ms"],
    }
    report.line(
        f"{request.skill}, {num:2d} rollouts: {least} drawn {part['short_ms']:.1f} ms, then "
        f"{step_ms:.2f} ms a step; {part['tokens_per_second']:.0f} tokens/s; "
        f"{part['ratio_to_roofline']:.1f} x the reading of its weights"
    )


def time_answer(report: Report, large: LargeModel, part: dict[str, Any]) -> None:
    """What the engine itself reports of one answer."""
    command = Answer(
        adapter=large.finetune.adapter,
        request=QUERY,
        settings=Settings(temperature=1.0, max_tokens=64),
        seed=11,
    )
    large.engine.answer(command, [large.picture])
    answered = large.engine.answer(command, [large.picture])
    part["prefill_ms"] = answered.prefill_time_ms
    part["decode_ms"] = answered.decode_time_ms
    report.line(
        f"answer of {answered.output_tokens} tokens, as reported: prefill "
        f"{part['prefill_ms']:.1f} ms, decode {part['decode_ms']:.1f} ms"
    )


def time_training(report: Report, large: LargeModel, num: int, part: dict[str, Any]) -> None:
    groups, pictures = large.groups(num)
    with peak_memory(part):
        step_seconds = median_seconds(lambda: large.finetune.train_step(groups, pictures, lr=1e-5))
        compute_seconds = median_seconds(lambda: large.compute(groups, pictures))
    length = large.num_prompt(QUERY) + NUM_ACTIONS - 1
    num_rows = num * NUM_ROLLOUTS
    floor = large.floors.train(num_rows=num_rows, length=length, num_actions=NUM_ACTIONS)
    part |= {
        "num_rows": num_rows,
        "num_positions_per_row": length,
        "step_seconds": step_seconds,
        "compute_seconds": compute_seconds,
        "roofline_seconds": floor,
        "ratio_to_roofline": compute_seconds / floor,
    }
    report.line(
        f"train step, {num} x {NUM_ROLLOUTS} rollouts: {step_seconds:.2f} s, without files "
        f"{compute_seconds:.2f} s, {part['ratio_to_roofline']:.1f} x its arithmetic "
        f"({1e3 * floor:.0f} ms), peak {part['peak_gb']:.1f} GB"
    )


def profile_decoding(report: Report, large: LargeModel, part: dict[str, Any]) -> None:
    """The difference between answers of nine tokens and of one, by eight."""
    for num in (1, NUM_ROLLOUTS):
        short = kernels_of(lambda n=num: large.roll(QUERY, n, max_tokens=1))
        long = kernels_of(lambda n=num: large.roll(QUERY, n, max_tokens=9))
        step = long.less(short).divided(8)
        whole_ms = report.parts[f"query, {num} rollouts"].get("decode_ms_per_step")
        part[f"{num} rollouts"] = step.summary(whole_ms)
        report.line(f"kernels of a step, {num:2d} rollouts: {step.line(whole_ms)}")


def profile_training(report: Report, large: LargeModel, part: dict[str, Any]) -> None:
    groups, pictures = large.groups(1)
    large.compute(groups, pictures)
    step = kernels_of(lambda: large.compute(groups, pictures))
    seconds = report.parts[f"train step, 1 x {NUM_ROLLOUTS} rollouts"].get("compute_seconds")
    whole_ms = None if seconds is None else 1e3 * seconds
    part |= step.summary(whole_ms)
    report.line(f"kernels of a train step, 1 x {NUM_ROLLOUTS}: {step.line(whole_ms)}")


def num_drawn(rollout: Rollout) -> int:
    """Positions that were drawn, the end included."""
    is_stopped = rollout.finish_reason is FinishReason.STOP
    return len(rollout.thinking_tokens) + len(rollout.answer_tokens) + is_stopped


# --- kernels ---


class Kernels:
    """How often each kernel ran, and for how long."""

    def __init__(self, counts: dict[str, float], milliseconds: dict[str, float]):
        self._counts = counts
        self._milliseconds = milliseconds

    def less(self, other: Kernels) -> Kernels:
        return Kernels(
            {n: c - other._counts.get(n, 0.0) for n, c in self._counts.items()},
            {n: t - other._milliseconds.get(n, 0.0) for n, t in self._milliseconds.items()},
        )

    def divided(self, number: int) -> Kernels:
        return Kernels(
            {n: c / number for n, c in self._counts.items()},
            {n: t / number for n, t in self._milliseconds.items()},
        )

    @property
    def _busy_ms(self) -> float:
        return sum(self._milliseconds.values())

    def summary(self, whole_ms: float | None) -> dict[str, Any]:
        """Launches, busy time, its share of the time without the profiler, the eight longest."""
        longest = sorted(self._milliseconds, key=lambda n: -self._milliseconds[n])[:8]
        return {
            "num_launches": sum(self._counts.values()),
            "busy_ms": self._busy_ms,
            "busy_share": None if whole_ms is None else self._busy_ms / whole_ms,
            "longest": [
                {"name": n[:160], "count": self._counts[n], "ms": self._milliseconds[n]}
                for n in longest
            ],
        }

    def line(self, whole_ms: float | None) -> str:
        share = "" if whole_ms is None else f", {100 * self._busy_ms / whole_ms:.0f} % of the time"
        return f"{sum(self._counts.values()):.0f} launches, busy {self._busy_ms:.2f} ms{share}"


def kernels_of(work: Callable[[], Any]) -> Kernels:
    """Profile a call; without a GPU the operators of the CPU stand in for kernels."""
    has_gpu = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if has_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        work()
        synchronize()
    counts: dict[str, float] = defaultdict(float)
    milliseconds: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        if has_gpu and event.device_type != DeviceType.CUDA:
            continue
        counts[event.name] += 1
        milliseconds[event.name] += event.time_range.elapsed_us() / 1e3
    if not counts:
        raise RuntimeError("the profiler saw no kernel")
    return Kernels(dict(counts), dict(milliseconds))


# --- all of it ---


def main() -> int:
    arguments = _parse()
    torch.set_num_threads(1)
    device = choose_device(arguments.device).type
    if arguments.write_checkpoint is not None:
        write_checkpoint(arguments.write_checkpoint, scale=arguments.scale, device=device)
        return 0
    report = Report(arguments.out, machine_facts(device), arguments.seconds)
    children: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory(prefix="moontune-cuda-") as name:
        directory = Path(name)
        try:
            children.append(start_oracle(device))
            if not arguments.skip_full:
                checkpoint = directory / "checkpoint"
                children.append(start_writer(checkpoint, scale=arguments.scale, device=device))
            check_correctness(report, device, directory, children[0])
            work = partial(learn_word, device, directory, report)
            report.run("learning", work, is_verdict=True)
            if not arguments.skip_full:
                full_geometry(report, device, directory, children[1])
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            report.print_table()
    return 0 if all(check["passed"] for check in report.checks) else 1


def check_correctness(
    report: Report, device: str, directory: Path, oracle_tests: subprocess.Popen[str]
) -> None:
    start = start_weights(directory)
    reference, exact, rounded = ("cpu", "float32"), (device, "float32"), (device, "bfloat16")
    Comparison(report, directory, start, exact, reference, FLOAT32_BOUNDS).run()
    Comparison(report, directory, start, rounded, exact, BFLOAT16_BOUNDS).run()
    work = partial(compare_fp8, device, start, report)
    report.run("fp8 experts", work, is_verdict=True)
    for place in (exact, rounded):
        report.run(f"twice on {' '.join(place)}", partial(repeat, report, directory, start, place))
    report.run("oracle", partial(wait_for_oracle, report, oracle_tests), is_verdict=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(), help="where cuda.json goes")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--skip-full", action="store_true", help="correctness and learning only")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--seconds", type=float, default=330.0, help="no part starts later than this"
    )
    parser.add_argument("--write-checkpoint", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
