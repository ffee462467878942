"""The device's time: in proportion to the shares, and nothing saved up by idleness."""

from __future__ import annotations

from collections import Counter

import pytest

from contract.work import WorkClass
from trainer.shares import BATCH_PART, Shares

INFERENCE, ROLLOUTS, TRAINING, BATCH = WorkClass


def run(shares: Shares, kinds, seconds: dict[WorkClass, float], turns: int) -> Counter[WorkClass]:
    """The seconds that each kind got."""
    used: Counter[WorkClass] = Counter()
    for _ in range(turns):
        kind = shares.next(kinds)
        shares.charge({kind: seconds[kind]})
        used[kind] += seconds[kind]
    return used


def test_time_goes_by_shares_however_long_the_units_are():
    seconds = {INFERENCE: 0.01, ROLLOUTS: 0.02, TRAINING: 0.3}
    used = run(Shares(train_share=0.4), list(seconds), seconds, 3000)
    total = sum(used.values())
    assert used[TRAINING] / total == pytest.approx(0.4, abs=0.01)
    assert used[INFERENCE] / total == pytest.approx(0.4, abs=0.01)
    assert used[ROLLOUTS] / total == pytest.approx(0.2, abs=0.01)


def test_one_kind_alone_has_everything():
    assert run(Shares(), [TRAINING], {TRAINING: 1.0}, 5) == {TRAINING: 5.0}


@pytest.mark.parametrize("train_share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("others", [(TRAINING,), (ROLLOUTS,), (INFERENCE, TRAINING)])
def test_batches_have_a_small_part_beside_anything_and_all_that_is_left(train_share, others):
    seconds = {**dict.fromkeys(others, 1.0), BATCH: 0.5}
    shares = Shares(train_share=train_share)
    used = run(shares, list(seconds), seconds, 2000)
    part = used[BATCH] / sum(used[kind] for kind in others)
    assert 0 < part <= BATCH_PART + 0.001
    assert run(shares, [BATCH], seconds, 10) == {BATCH: 5.0}
    again = run(shares, list(seconds), seconds, 100)  # and owes nothing for it
    assert again[BATCH] >= 0.5


@pytest.mark.parametrize("kind", [INFERENCE, ROLLOUTS, TRAINING])
def test_who_comes_while_only_batches_work_goes_first_for_a_while(kind):
    shares, seconds = Shares(), {kind: 0.1, BATCH: 0.1}
    for _ in range(20):  # calls of less than a second, with pauses
        assert run(shares, [BATCH], seconds, 3)[kind] == 0
        assert run(shares, [kind, BATCH], seconds, 9)[BATCH] == 0
    assert run(shares, [kind, BATCH], seconds, 1000)[BATCH] > 0


def test_who_was_idle_has_saved_nothing_up():
    shares, seconds = Shares(train_share=0.5), dict.fromkeys(WorkClass, 1.0)
    run(shares, [ROLLOUTS], seconds, 100)
    used = run(shares, [ROLLOUTS, TRAINING], seconds, 40)
    assert used[TRAINING] == pytest.approx(20, abs=1)


def test_who_worked_alone_owes_nothing_to_who_comes_back():
    shares, seconds = Shares(train_share=0.5), dict.fromkeys(WorkClass, 1.0)
    run(shares, [ROLLOUTS, TRAINING], seconds, 40)
    run(shares, [TRAINING], seconds, 1000)
    used = run(shares, [ROLLOUTS, TRAINING], seconds, 40)
    assert used[ROLLOUTS] == pytest.approx(20, abs=1)


@pytest.mark.parametrize(
    ("long", "brief"),
    [(ROLLOUTS, TRAINING), (TRAINING, ROLLOUTS), (TRAINING, INFERENCE), (INFERENCE, TRAINING)],
)
def test_kinds_that_worked_one_after_the_other_owe_each_other_nothing(long, brief):
    shares, seconds = Shares(train_share=0.5), dict.fromkeys(WorkClass, 1.0)
    run(shares, [long], seconds, 3600)
    run(shares, [brief], seconds, 1)
    used = run(shares, [long, brief], seconds, 40)
    assert used[long] == pytest.approx(20, abs=1)


def test_answers_of_two_kinds_that_take_turns_do_not_owe_training_each_for_itself():
    shares, seconds = Shares(train_share=0.5), dict.fromkeys(WorkClass, 1.0)
    run(shares, [TRAINING], seconds, 3600)
    run(shares, [INFERENCE], seconds, 1)
    used = run(shares, [ROLLOUTS, TRAINING], seconds, 40)
    assert used[TRAINING] == pytest.approx(20, abs=1)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0])
def test_a_share_lies_between_nothing_and_all(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Shares(train_share=share)
