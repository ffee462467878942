"""What the HTTP benchmark asserts before and after it times anything."""

from __future__ import annotations

import copy

import pytest

from benchmarks.rollouts_http import NUM_CALLS, PER_CALL, compared, new_picture, no_picture_again
from benchmarks.served_model import sum_of

METRICS = """\
# TYPE moontune_cache_hits_total counter
moontune_cache_hits_total{cache="image_features"} 12
moontune_cache_hits_total{cache="image_features_host"} 100
moontune_cache_hits_total{worker="2",cache="image_features"} 3.0
moontune_cache_hits_total_of_others{cache="image_features"} 50
"""


def answers(first_token: int = 0) -> list[dict]:
    """Every rollout has its own tokens."""
    return [
        {
            "rollouts": [
                {
                    "answer_tokens": [first_token, call, i],
                    "logprobs": {"answer": [-1.0, -2.0, -3.0]},
                }
                for i in range(PER_CALL)
            ]
        }
        for call in range(NUM_CALLS)
    ]


def test_equal_calls_may_swap_their_seeds():
    assert compared(answers(), answers()[::-1]) == {
        "different_rollouts": 0,
        "logprob_difference": 0.0,
    }


def test_rounding_may_change_one_rollout_and_no_second_one():
    found = answers()
    found[3]["rollouts"][1]["answer_tokens"] = [9, 9, 9]
    assert compared(answers(), found)["different_rollouts"] == 1
    found[4]["rollouts"][1]["answer_tokens"] = [9, 9, 8]
    with pytest.raises(AssertionError, match="2 rollouts differ"):
        compared(answers(), found)


def test_other_log_probabilities_are_noticed():
    found = answers()
    found[0]["rollouts"][0]["logprobs"]["answer"][2] += 2e-5
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        compared(answers(), found)


def test_calls_that_were_answered_alike_are_noticed():
    found = answers()
    found[1] = copy.deepcopy(found[0])
    with pytest.raises(AssertionError, match="60"):
        compared(answers(), found)


def test_pictures_differ_and_a_seed_repeats_one():
    urls = {new_picture().image_url for _ in range(3)}
    assert len(urls) == 3
    assert new_picture(seed=5) == new_picture(seed=5)


def test_counters_are_read_by_their_label():
    assert sum_of(METRICS, "moontune_cache_hits_total", 'cache="image_features"') == 15
    assert sum_of(METRICS, "moontune_cache_hits_total", 'cache="prefixes"') is None


def test_the_counts_of_the_cache_of_pictures_are_judged():
    assert no_picture_again((None, None), (4.0, 4.0), num_pictures=4) == "checked in /metrics"
    assert no_picture_again((2.0, 10.0), (9.0, 14.0), num_pictures=4) == "checked in /metrics"
    assert "not checked" in no_picture_again((None, None), (None, None), num_pictures=4)
    with pytest.raises(AssertionError, match="5 pictures encoded, 4 were new"):
        no_picture_again((2.0, 10.0), (9.0, 15.0), num_pictures=4)
    with pytest.raises(AssertionError, match="3 pictures found"):
        no_picture_again((2.0, 10.0), (5.0, 14.0), num_pictures=4)
