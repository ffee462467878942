"""The file and the table of the GPU benchmark, and the pure parts of what it compares."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu.report import Report, results_file
from benchmarks.gpu.rounding import common_gaps
from benchmarks.gpu.sharing import percentile, summary
from contract.skills import FinishReason
from trainer.sequence import Action, Mask, Trace

FACTS = {
    "machine": {"device": "cuda", "gpu": "NVIDIA H200", "torch": "2.11.0"},
    "scale": "full",
    "is_judged_by_speed": True,
}


def new_report(directory, facts=FACTS, seconds=60.0) -> Report:
    return Report(directory, facts, seconds)


def failing(_part):
    raise RuntimeError("no memory")


def test_results_are_named_after_hardware_and_scale():
    assert results_file(FACTS) == "gpu-nvidia-h200-full.json"


def test_a_later_run_goes_on_with_the_file_of_an_earlier_one(tmp_path, capsys):
    first = new_report(tmp_path)
    first.run("decode", lambda part: part.update(tick_ms=6.0) or first.line("6 ms"))
    first.run("memory", failing)
    second = new_report(tmp_path)
    second.run("memory", lambda part: part.update(peak_gb=30.0) or second.line("30 GB"))
    found = json.loads(second.path.read_text())
    assert found["machine"] == FACTS["machine"]
    assert found["parts"]["decode"]["tick_ms"] == 6.0
    assert found["parts"]["decode"]["torch"] == "2.11.0"
    assert found["parts"]["memory"]["status"] == "done"
    capsys.readouterr()
    second.print_table()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line]
    assert lines == ["6 ms", "30 GB", str(second.path)]


def test_a_part_that_fails_is_told_and_the_next_one_runs(tmp_path):
    report = new_report(tmp_path)
    assert report.run("memory", failing) is None
    assert report.run("decode", lambda _part: 7) == 7
    assert report.parts["memory"]["error"] == "RuntimeError: no memory"
    assert report.is_passed


def test_what_has_to_work_decides_the_exit_and_speed_does_not(tmp_path):
    report = new_report(tmp_path)
    report.run("group", lambda _part: report.target("ms", 300.0, bound=200.0))
    assert report.is_passed
    assert report.parts["group"]["lines"][0].startswith("MISSED")
    report.run("decoder", lambda _part: report.check("gap", float("nan"), bound=1e-4))
    assert not report.is_passed


def test_a_part_of_verdict_that_does_not_end_is_a_failed_check(tmp_path):
    report = new_report(tmp_path)
    report.run("build", failing, is_verdict=True)
    assert not report.is_passed


def test_speed_is_not_judged_where_it_means_nothing(tmp_path):
    report = new_report(tmp_path, {**FACTS, "is_judged_by_speed": False})
    report.run("group", lambda _part: report.target("ms", 300.0, bound=200.0))
    assert report.parts["group"]["lines"][0].startswith("        ms")


def test_what_does_not_begin_any_more_leaves_the_earlier_numbers(tmp_path):
    first = new_report(tmp_path)
    first.run("decode", lambda part: part.update(tick_ms=6.0))
    late = new_report(tmp_path, seconds=-1.0)
    assert late.run("decode", failing) is None
    assert late.parts["decode"]["tick_ms"] == 6.0


@pytest.mark.parametrize(("share", "expected"), [(0.5, 10.0), (0.95, 19.0), (1.0, 20.0)])
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(share, expected):
    assert percentile([float(value) for value in range(20, 0, -1)], share) == expected


def test_a_summary_counts_attempts_of_whole_calls():
    # 3 calls of 16 attempts in 4 seconds
    found = summary([1.0, 2.0, 3.0], [], 4.0)
    assert (found["attempts_per_second"], found["rollouts_p50"]) == (12.0, 2.0)
    assert "step_seconds" not in found


def trace_of(*draws: tuple[int, float]) -> Trace:
    actions = tuple(
        Action(token=token, mask=Mask(), token_logprob=logprob, bin_logprobs=())
        for token, logprob in draws
    )
    return Trace(actions=actions, finish_reason=FinishReason.LENGTH)


def test_log_probabilities_are_compared_up_to_the_first_draw_that_differs():
    one = trace_of((5, -1.0), (6, -2.0), (7, -9.0))
    other = trace_of((5, -1.5), (8, -3.0), (7, -1.0))
    assert common_gaps(one, other) == [0.5]
