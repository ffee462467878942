"""How benchmarks take turns, and what they tell."""

from __future__ import annotations

import json
import time

import pytest

from benchmarks.side_by_side import alternating, most_memory, tell


def test_sides_take_turns_after_a_round_that_does_not_count():
    calls: list[str] = []

    def work(name: str):
        return lambda: calls.append(name) or float(len(calls))

    seconds = alternating({"a": work("a"), "b": work("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_only_what_is_named_warms_up():
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) or 0.0 for name in ("a", "b")}
    alternating(works, 1, warm_up=["b"])
    assert calls == ["b", "a", "b"]


def test_a_line_holds_the_ratio_of_medians_and_the_ratios_of_rounds(capsys):
    tell("x", [6.0, 8.0, 20.0], [2.0, 1.0, 4.0], more="more")
    line = json.loads(capsys.readouterr().out)
    assert line == {
        "name": "x",
        "ratio": 4.0,  # 8 / 2
        "runs": 3,
        "spread": [3.0, 8.0],
        "cpu_seconds": {"ours": 2.0, "theirs": 8.0},
        "more": "more",
    }


def test_memory_is_what_a_call_takes_at_most():
    # 64 MiB, written so that they are there, and held until the watcher must have looked
    def work():
        taken = bytearray(b"\1") * (64 << 20)
        time.sleep(0.2)  # the watcher looks every millisecond that it is let
        return len(taken)

    assert most_memory(work) == pytest.approx(64, abs=16)
