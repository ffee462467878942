"""The tables and panels of a study, from its finished runs; what is not there yet is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from benchmarks.learning_study.picture import CurvePanel, DotPanel, DotRow, draw_study
from benchmarks.learning_study.plan import START, Phases, Plan
from benchmarks.learning_study.runs import BY_TASK, COMPARED, NEW_SEEDS, REFERENCE_RATE
from benchmarks.learning_study.store import Run
from benchmarks.learning_study.summary import (
    Difference,
    band,
    by_variant,
    difference,
    last,
    score,
    spread_text,
)


def draw(runs: Sequence[Run]) -> Image.Image:
    """Curves of every task at the start, and the variants as dots."""
    curves = [
        _curves(runs, "query, RL: a new question", (("", "query", "rl"),)),
        _curves(runs, "point, RL: a new shape among others", (("", "point", "rl"),)),
        _curves(runs, "detect, RL: a new shape", (("", "detect", "rl"),)),
        _curves(
            runs, "SFT", (("detect a new shape", "detect", "sft"), ("a new word", "word", "sft"))
        ),
        *(
            _curves(
                runs,
                f"SFT then RL: {what}",
                (("RL alone", task, "rl"), ("SFT alone", task, "sft"), (then, task, "sft, rl")),
            )
            for task, what, then in (
                ("detect", "detect a new shape", "6 SFT steps, then RL"),
                ("word", "a new word", "24 SFT steps, then RL"),
            )
        ),
    ]
    dots = [
        DotPanel(title=f"{task}: one change at a time", rows=rows, label_width=230)
        for task in COMPARED
        if (rows := _dot_rows(runs, task))
    ]
    return draw_study(
        [panel for panel in curves if panel.curves],
        dots,
        title="What the tiny Moondream learns: mean reward on held-out pictures, range over seeds",
    )


def _curves(runs: Sequence[Run], title: str, wanted: Sequence[tuple[str, str, str]]) -> CurvePanel:
    """Of runs at the start: label, task, and modes of the phases."""
    found = []
    for label, task, modes in wanted:
        some = [
            run
            for run in runs
            if run.plan.variant == "start"
            and run.plan.task == task
            and modes_of(run.plan.phases) == modes
            and run.plan.seed not in NEW_SEEDS
        ]
        if some:
            found.append((label, band(some)))
    return CurvePanel(title=title, curves=found)


def modes_of(phases: Phases) -> str:
    return ", ".join(mode for mode, _ in phases)


def _dot_rows(runs: Sequence[Run], task: str) -> list[DotRow]:
    rows: list[DotRow] = []
    for section in sections(runs, task):
        rows.append(DotRow(label=section.heading))
        for index, some in enumerate(section.variants):
            values = [score(run) for run in some]
            label = section.label(some[0].plan)
            rows.append(DotRow(label=label, values=values, is_reference=index == 0))
    return rows


@dataclass(frozen=True, kw_only=True)
class Section:
    """A comparison: the runs of each variant, the reference first."""

    heading: str
    variants: list[list[Run]]
    label: Callable[[Plan], str]


def sections(runs: Sequence[Run], task: str) -> list[Section]:
    """The comparisons of a task, as far as there is something to compare."""
    own = [run for run in runs if run.plan.task == task and is_whole(run.plan)]
    first = by_variant([run for run in own if run.plan.seed not in NEW_SEEDS])
    new = by_variant([run for run in own if run.plan.seed in NEW_SEEDS])
    fresh = [some for some in first if some[0].plan.num_steps_per_sampling == 1]
    found = [
        Section(
            heading="fresh rollouts",
            variants=[some for some in fresh if not is_rate(some[0].plan)],
            label=option_label,
        ),
        Section(
            heading="rollouts up to three steps old",
            variants=[some for some in first if some not in fresh],
            label=loss_label,
        ),
        Section(
            heading="learning rates of dense and expert factors",
            variants=by_rate([some for some in fresh if rate_options(some[0].plan)]),
            label=rate_label,
        ),
        Section(heading="the same on new seeds", variants=by_rate(new), label=rate_label),
    ]
    return [section for section in found if len(section.variants) > 1]


def is_whole(plan: Plan) -> bool:
    """Whether the task is learned as at the start, without phases of another mode."""
    return plan.phases == BY_TASK[plan.task].phases


def rate_options(plan: Plan) -> bool:
    """Whether nothing but learning rates may differ from the start."""
    return not plan.options.keys() - {"expert_lr_ratio"}


def is_rate(plan: Plan) -> bool:
    """Whether learning rates differ from the start."""
    return "expert_lr_ratio" in plan.options or plan.lr != BY_TASK[plan.task].lr


def by_rate(variants: Sequence[list[Run]]) -> list[list[Run]]:
    """By ratio and learning rate, but first the one that others are held against."""

    def key(some: list[Run]) -> tuple[bool, float, float]:
        ratio, lr = expert_lr_ratio(some[0].plan), some[0].plan.lr
        return (ratio, lr) != REFERENCE_RATE, ratio, lr

    return sorted(variants, key=key)


def expert_lr_ratio(plan: Plan) -> float:
    return plan.options.get("expert_lr_ratio", START["expert_lr_ratio"])


def rate_label(plan: Plan) -> str:
    return f"expert_lr_ratio {expert_lr_ratio(plan):g}, lr {plan.lr:g}"


def loss_label(plan: Plan) -> str:
    """Such as `loss gspo, clips 0.02`."""
    options = {"loss": START["loss"], **plan.options}
    clip = options.pop("clip_low", None)
    options.pop("clip_high", None)
    label = option_label(replace(plan, options=options))
    return label if clip is None else f"{label}, clips {clip:g}"


def option_label(plan: Plan) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.options.items()) or "start"


def tables(runs: Sequence[Run]) -> str:
    """In Markdown, task by task: score, last value, and the difference to the first row."""
    lines: list[str] = []
    for task in BY_TASK:
        for section in sections(runs, task):
            lines += [
                f"\n### {task}: {section.heading}\n",
                "| variant | seeds | mean of the run | at the end | against the first | clear |",
                "|---|---|---|---|---|---|",
            ]
            reference = section.variants[0]
            for some in section.variants:
                change = None if some is reference else difference(some, reference)
                lines.append(
                    f"| {section.label(some[0].plan)} | {len(some)} | {spread_text(some)} "
                    f"| {spread_text(some, last)} | {difference_text(change)} |"
                )
    return "\n".join(lines)


def difference_text(change: Difference | None) -> str:
    if change is None:
        return " | "
    shown = f"{change.mean:+.3f} ({change.lowest:+.3f} to {change.highest:+.3f})"
    return f"{shown} | {'yes' if change.is_clear else 'no'}"
