"""When a worker may be started again."""

from __future__ import annotations

from server.restarts import RestartSchedule


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_start_is_at_once() -> None:
    assert RestartSchedule().pause_seconds() == 0.0


def test_pauses_double_from_one_second_to_sixty() -> None:
    clock = Clock()
    schedule = RestartSchedule(clock=clock)
    pauses: list[float] = []
    for _ in range(8):
        schedule.started()
        schedule.ended()
        pauses.append(schedule.pause_seconds())
        clock.now += 60.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_readiness_forgets_earlier_failures() -> None:
    schedule = RestartSchedule()
    for _ in range(3):
        schedule.started()
        schedule.ended()
    schedule.started()
    schedule.became_ready()
    schedule.ended()
    assert schedule.pause_seconds() == 0.0
    schedule.started()
    schedule.ended()
    assert schedule.pause_seconds() == 1.0


def test_there_are_at_most_ten_starts_a_minute_even_if_each_becomes_ready() -> None:
    clock = Clock()
    schedule = RestartSchedule(clock=clock)
    starts: list[float] = []
    while len(starts) < 25:
        clock.now += max(0.0, schedule.pause_seconds())
        starts.append(clock.now)
        schedule.started()
        schedule.became_ready()
        schedule.ended()
    # Ten starts and the eleventh are never within one minute.
    assert all(later - earlier >= 60.0 for earlier, later in zip(starts, starts[10:], strict=False))
    assert starts[9] == starts[0]


def test_a_thousand_failures_do_not_overflow_the_pause() -> None:
    schedule = RestartSchedule()
    for _ in range(2000):
        schedule.ended()
    assert schedule.pause_seconds() == 60.0
