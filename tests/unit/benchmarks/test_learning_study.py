"""The learning study: which runs it has, how they are kept, and when a difference counts."""

from __future__ import annotations

import pytest

from benchmarks.learning_study.finetune import Learned
from benchmarks.learning_study.picture import COLORS, CurvePanel, DotPanel, DotRow, draw_study
from benchmarks.learning_study.report import sections, tables
from benchmarks.learning_study.runs import BY_TASK, COMPARED, all_runs, changed, quick_runs
from benchmarks.learning_study.store import Run, Runs
from benchmarks.learning_study.summary import Band, band, by_variant, difference, score
from benchmarks.learning_study.tasks import TASKS
from contract.groups import TrainOptions


def run(seed: int, *values: float, **change) -> Run:
    learned = Learned(
        held_out=[(4 * index, value) for index, value in enumerate(values)],
        training=[(1, 0.25)],
        sft_losses=[],
        clipped=0.0,
        dropped=0,
        seconds=1.0,
    )
    return Run(plan=changed("query", seed, **change), learned=learned)


def test_no_run_is_planned_twice_and_each_can_be_made():
    for runs in (all_runs(), quick_runs()):
        assert all(plan not in runs[:index] for index, plan in enumerate(runs))
    assert {plan.task for plan in quick_runs()} == set(BY_TASK) == set(TASKS)
    for plan in all_runs():
        TrainOptions(**plan.options)


def test_a_variant_is_called_by_what_differs_from_the_start():
    assert changed("query", 1, loss="group", expert_lr_ratio=1.0) == BY_TASK["query"]
    plan = changed("detect", 2, lr=1e-2, beta=0.05, loss="group")
    assert (plan.variant, plan.options) == ("beta 0.05, lr 0.01", {"beta": 0.05})


def test_what_was_written_is_read_back(tmp_path):
    wanted = [run(1, 0.25, 0.5), run(2, 0.25, 0.75, loss="dapo")]
    runs = Runs(tmp_path / "runs.jsonl", {"about": "test"})
    for one in wanted:
        runs.add(one)
    assert Runs(tmp_path / "runs.jsonl", {}).read() == wanted


def test_a_score_leaves_out_what_was_before_training():
    assert score(run(1, 0.0, 0.5, 1.0)) == 0.75


def test_runs_that_differ_in_their_seed_are_one_band():
    one, other, third = run(2, 0.0, 0.5), run(1, 0.0, 1.0), run(1, 0.0, 0.1, beta=0.05)
    assert by_variant([one, third, other]) == [[other, one], [third]]
    assert band([one, other]) == Band(
        steps=(0, 4), means=(0.0, 0.75), lows=(0.0, 0.5), highs=(0.0, 1.0)
    )


@pytest.mark.parametrize(
    ("better", "is_clear"), [((0.7, 0.8), True), ((0.45, 0.65), False), ((0.9, 0.5), False)]
)
def test_a_difference_is_clear_beyond_the_spread_and_with_one_sign(better, is_clear):
    start = [run(1, 0.0, 0.4), run(2, 0.0, 0.6)]
    found = difference([run(1, 0.0, better[0]), run(2, 0.0, better[1])], start)
    assert found is not None
    assert found.mean == pytest.approx(sum(better) / 2 - 0.5)
    assert found.is_clear is is_clear


def test_a_single_seed_is_no_comparison():
    assert difference([run(1, 0.0, 1.0)], [run(1, 0.0, 0.5), run(2, 0.0, 0.5)]) is None


def test_tables_name_the_variant_and_its_difference():
    runs = [run(s, 0.0, 0.5, **c) for s in (1, 2) for c in ({}, {"advantage_scale": "none"})]
    assert "advantage_scale none | 2 | 0.500 (0.500-0.500)" in tables(runs)
    assert COMPARED[1] not in tables(runs)


def test_the_picture_has_the_curve_and_the_dots():
    flat = Band(steps=(0, 8), means=(0.5, 0.5), lows=(0.4, 0.4), highs=(0.6, 0.6))
    curves = CurvePanel(title="c", curves=[("a", flat)])
    dots = DotPanel(
        title="d",
        rows=[DotRow(label="v", values=(0.8, 0.9)), DotRow(label="low", values=(0.5, 0.7))],
        label_width=40,
    )
    image = draw_study([curves], [dots], title="t", width=600)
    assert image.size[0] == 600
    colors = {color for _, color in image.getcolors(1 << 20) or []}
    assert tuple(bytes.fromhex(COLORS[0][1:])) in colors


def test_rates_are_held_against_the_same_one_on_every_task():
    ratios = [run(s, 0.0, 0.5, lr=5e-3, expert_lr_ratio=r) for s in (1, 2) for r in (2.0, 1.0)]
    (rates,) = sections([*ratios, run(1, 0.0, 0.4)], "query")
    assert [rates.label(some[0].plan) for some in rates.variants] == [
        "expert_lr_ratio 1, lr 0.005",
        "expert_lr_ratio 1, lr 0.002",
        "expert_lr_ratio 2, lr 0.005",
    ]
