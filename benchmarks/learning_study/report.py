"""The tables and panels of a study, from its finished runs; what is not there yet is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image

from benchmarks.learning_study.picture import CurvePanel, DotPanel, DotRow, draw_study
from benchmarks.learning_study.plan import Phases, Plan
from benchmarks.learning_study.runs import BY_TASK, COMPARED, NEW_SEEDS
from benchmarks.learning_study.store import Run
from benchmarks.learning_study.summary import band, by_variant, difference, last, score, spread_text


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
        DotPanel(title=f"{task}: one change at a time", rows=rows, label_width=270)
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
    for heading, variants in sections(runs, task):
        rows.append(DotRow(label=heading))
        for index, some in enumerate(variants):
            values = [score(run) for run in some]
            label = short(some[0].plan)
            rows.append(DotRow(label=label, values=values, is_reference=index == 0))
    return rows


def sections(runs: Sequence[Run], task: str) -> Iterator[tuple[str, list[list[Run]]]]:
    """The comparisons of a task: a heading, and the runs of each variant, the reference first."""
    own = [run for run in runs if run.plan.task == task and run.plan.phases == BY_TASK[task].phases]
    variants = by_variant([run for run in own if run.plan.seed not in NEW_SEEDS])
    fresh = [some for some in variants if some[0].plan.num_steps_per_sampling == 1]
    start = [some for some in fresh if some[0].plan.variant == "start"]
    changed = [some for some in fresh if some[0].plan.variant != "start"]
    for heading, some in (
        ("fresh rollouts", start + [some for some in changed if not is_rate(some[0].plan)]),
        ("rollouts up to three steps old", [some for some in variants if some not in fresh]),
        (
            "learning rates of dense and expert factors",
            start + [some for some in changed if is_rate(some[0].plan)],
        ),
    ):
        if len(some) > 1:
            yield heading, some


def is_rate(plan: Plan) -> bool:
    return "expert_lr_ratio" in plan.options or plan.lr != BY_TASK[plan.task].lr


def short(plan: Plan) -> str:
    """The variant in few words, such as `loss gspo, clips 0.02`."""
    if is_rate(plan):
        return f"expert_lr_ratio {plan.options.get('expert_lr_ratio', 1.0):g}, lr {plan.lr:g}"
    options = dict(plan.options)
    clip = options.pop("clip_low", None)
    options.pop("clip_high", None)
    parts = [f"{name} {value}" for name, value in options.items()]
    if clip is not None:
        parts.append(f"clips {clip:g}")
    return ", ".join(parts) or ("loss group" if plan.num_steps_per_sampling > 1 else "start")


def tables(runs: Sequence[Run]) -> str:
    """In Markdown, task by task: score, last value, and the difference to the first row."""
    lines: list[str] = []
    for task in COMPARED:
        for heading, variants in sections(runs, task):
            lines += [f"\n### {task}: {heading}\n"]
            lines += ["| variant | mean of the run | at the end | against the first | clear |"]
            lines += ["|---|---|---|---|---|"]
            for index, some in enumerate(variants):
                change = difference(some, variants[0]) if index else None
                shown = (
                    "| |"
                    if change is None
                    else f"{change.mean:+.3f} ({change.lowest:+.3f} to {change.highest:+.3f}) | "
                    f"{'yes' if change.is_clear else 'no'} |"
                )
                lines.append(
                    f"| {short(some[0].plan)} | {spread_text(some)} | {spread_text(some, last)} "
                    f"| {shown}"
                )
    return "\n".join(lines)
