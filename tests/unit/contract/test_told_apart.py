"""Metrics tell apart as many finetunes as is good for who collects them; bar S8."""

from __future__ import annotations

from contract.stats import ENGINE_METRICS
from contract.told_apart import MAX_TOLD_APART, OTHERS, ToldApart
from server.meters import STEPS, STEPS_NOT_FINITE, Meters
from server.prometheus import Exposition
from server.services.observation import ALL_METRICS
from trainer.counters import Counters

NUM_FINETUNES = 10_000
MAX_SERIES = 2_000
TOKENS = "moontune_sampled_tokens_total"


def test_who_did_nothing_lately_is_counted_with_the_others_and_nothing_is_lost() -> None:
    told = ToldApart(limit=2)
    for finetune_id in ("a", "b", "a", "c", "b"):
        told.add(STEPS, (finetune_id, "true"), 1)
    # c came third, so b went (1 step); b came back as the third, so a went (2 steps).
    assert {labels: value for (_, labels), value in told.values.items()} == {
        (OTHERS, "true"): 3,
        ("c", "true"): 1,
        ("b", "true"): 1,
    }


def test_all_series_of_one_finetune_go_together() -> None:
    told = ToldApart(limit=1)
    told.add(STEPS, ("a", "true"), 1)
    told.add(STEPS, ("a", "false"), 1)
    told.add(STEPS_NOT_FINITE, ("a",), 1)
    told.add(STEPS, ("b", "true"), 1)
    assert {labels for _, labels in told.values} == {
        (OTHERS, "true"),
        (OTHERS, "false"),
        (OTHERS,),
        ("b", "true"),
    }


def test_ten_thousand_finetunes_are_few_series_in_the_api_and_in_the_worker() -> None:
    meters, counters = Meters(), Counters()
    for number in range(NUM_FINETUNES):
        meters.count(STEPS, f"{number:026}", "true")
        meters.count(STEPS, f"{number:026}", "false")
        meters.count(STEPS_NOT_FINITE, f"{number:026}")
        for work_class in ("rollouts", "inference"):
            counters.count(TOKENS, work_class, f"{number:026}", by=3)
    for stats, each in ((meters.stats(), 3), (counters.gathered(), 2)):
        assert len(stats.samples) == each * (MAX_TOLD_APART + 1)
    text = Exposition(ALL_METRICS, counters.gathered).text().decode()
    told = [line for line in text.splitlines() if line.startswith(TOKENS)]
    assert sum(float(line.split()[-1]) for line in told) == 2 * 3 * NUM_FINETUNES
    # Each metric that names finetunes, with every other label at its most (2).
    by_finetune = [m for m in ALL_METRICS.values() if "finetune_id" in m.labels]
    most = sum((MAX_TOLD_APART + 1) * 2 ** (len(m.labels) - 1) for m in by_finetune)
    assert most < MAX_SERIES / 2
    assert TOKENS in ENGINE_METRICS
