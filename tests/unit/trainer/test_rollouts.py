"""Rollouts on their way out and back: every rule of http-api.md 8.6 and 10.3."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from contract.errors import RequestRefused
from contract.skills import FinishReason, ReturnedRollout, Rollout, Skill, TunableRequest
from tests.micro import (
    DETECT,
    POINT,
    QUERY,
    REASONING,
    REQUESTS,
    micro_language,
    micro_model,
    returned,
    sample_rollouts,
    tokenizer,
)
from trainer.rollouts import ReadRollout, read_rollout

LOC = ("groups", 2, "rollouts", 1)
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
BOX = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.6}


def read(request: TunableRequest, rollout: ReturnedRollout) -> ReadRollout:
    return read_rollout(request, rollout, language=micro_language(), loc=LOC)


def tokens(result: ReadRollout) -> list[int]:
    return [action.token for action in result.actions]


def bins(result: ReadRollout) -> list[tuple[int, ...]]:
    return [action.bins for action in result.actions if action.bins]


def sampled(request: TunableRequest, finish_reason: FinishReason | None = None) -> Rollout:
    """A sampled rollout that says something, by default of any finish reason."""
    rollouts = sample_rollouts(micro_model(), request, num_rollouts=32)
    return next(r for r in rollouts if r.answer_tokens and finish_reason in (None, r.finish_reason))


def refusal(request: TunableRequest, rollout: ReturnedRollout) -> RequestRefused:
    with pytest.raises(RequestRefused) as refused:
        read(request, rollout)
    return refused.value


# Going out


@pytest.mark.parametrize("name", REQUESTS)
def test_the_lists_of_a_rollout_are_aligned_and_hold_no_end(name):
    request = REQUESTS[name]
    for r in sample_rollouts(micro_model(), request, num_rollouts=16, policy_step=12):
        everything = [*r.thinking_tokens, *r.answer_tokens]
        assert 0 not in everything
        assert len(r.coords) == everything.count(5)
        assert len(r.sizes) == everything.count(6)
        assert r.skill == request.skill
        assert r.policy_step == 12
        assert r.has_answer_separator or not (r.thinking_tokens and r.answer_tokens)
        given = r.logprobs
        assert set(given) == {
            "v", "digest", "thinking", "separator", "answer", "stop", "coords", "sizes",
        }  # fmt: skip
        assert given["v"] == 1
        assert len(given["thinking"]) == len(r.thinking_tokens)
        assert len(given["answer"]) == len(r.answer_tokens)
        assert len(given["coords"]) == len(r.coords)
        assert [len(pair) for pair in given["sizes"]] == [2] * len(r.sizes)
        assert (given["separator"] is None) == (not r.has_answer_separator)
        assert (given["stop"] is None) == (r.finish_reason is LENGTH)
        assert json.loads(json.dumps(given)) == given


def test_the_digest_is_that_of_the_documented_text():
    r = sampled(DETECT)
    parts = [
        "detect", [], False, list(r.answer_tokens), list(r.coords),
        [list(pair) for pair in r.sizes], r.finish_reason.value,
    ]  # fmt: skip
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    assert r.logprobs["digest"] == hashlib.sha256(text.encode()).hexdigest()[:16]


# Coming back whole


@pytest.mark.parametrize("name", REQUESTS)
def test_a_rollout_that_comes_back_as_it_went_has_no_warning(name):
    for rollout in sample_rollouts(micro_model(), REQUESTS[name], num_rollouts=16):
        result = read(REQUESTS[name], returned(rollout))
        assert result.has_logprobs
        assert result.warning is None


def test_the_step_that_sampled_is_passed_on():
    assert read(DETECT, returned(sampled(DETECT), policy_step=7)).policy_step == 7
    assert read(DETECT, returned(sampled(DETECT), policy_step=None)).policy_step is None


# Absent fields


def test_an_absent_finish_reason_means_stop():
    rollout = sampled(DETECT, LENGTH)
    assert tokens(read(DETECT, returned(rollout)))[-1] == 6
    result = read(DETECT, returned(rollout, finish_reason=None))
    assert tokens(result)[-1] == 0
    assert not result.has_logprobs  # the digest was made of another ending


def test_an_absent_skill_is_that_of_the_request_and_another_is_refused():
    rollout = sampled(DETECT)
    assert tokens(read(DETECT, returned(rollout, skill=None)))
    error = refusal(DETECT, returned(rollout, skill=Skill.POINT))
    assert error.loc == (*LOC, "skill")


@pytest.mark.parametrize(("thinking", "separator"), [((100, 101), True), ((), False)])
def test_an_absent_separator_means_if_there_are_thinking_tokens(thinking, separator):
    rollout = ReturnedRollout(thinking_tokens=thinking, answer_tokens=())
    assert (3 in tokens(read(REASONING, rollout))) is separator


def test_absent_lists_are_empty():
    words = tuple(tokenizer().encode("two"))
    result = read(QUERY, ReturnedRollout(answer_tokens=words))
    assert tokens(result) == [*words, 0]
    assert not result.has_logprobs
    assert result.warning is None


def test_one_trailing_end_token_is_removed_and_means_stop():
    words = tuple(tokenizer().encode("two"))
    for reason in (None, LENGTH, STOP):
        rollout = ReturnedRollout(answer_tokens=(*words, 0), finish_reason=reason)
        assert tokens(read(QUERY, rollout)) == [*words, 0]


def test_a_second_end_token_is_not_understood():
    assert refusal(QUERY, ReturnedRollout(answer_tokens=(100, 0, 0))).loc == LOC


def test_an_end_token_that_was_kept_leaves_the_logprobs_usable():
    rollout = sampled(DETECT, STOP)
    result = read(DETECT, returned(rollout, answer_tokens=(*rollout.answer_tokens, 0)))
    assert result.has_logprobs


# Saying nothing


@pytest.mark.parametrize(
    ("request_", "output"),
    [(DETECT, {"objects": []}), (POINT, {"points": []}), (QUERY, {"answer": ""}), (QUERY, {})],
    ids=str,
)
def test_empty_tokens_and_output_with_stop_say_nothing(request_, output):
    rollout = ReturnedRollout(answer_tokens=(), output=output, finish_reason=STOP)
    assert tokens(read(request_, rollout)) == [0]


# Rebuilding


def test_a_detect_output_alone_becomes_its_tokens():
    # centre (0.25, 0.4): 255.75 -> 256, 409.2 -> 409; size (0.3, 0.4): 845.3 -> 845, 887.8 -> 888
    for key in ("objects", "boxes"):
        result = read(DETECT, ReturnedRollout(output={key: [BOX]}))
        assert tokens(result) == [5, 5, 6, 0]
        assert bins(result) == [(256,), (409,), (845, 888)]
        assert not result.has_logprobs
        assert result.warning is None


def test_a_point_output_alone_becomes_its_tokens():
    result = read(POINT, ReturnedRollout(output={"points": [{"x": 0.5, "y": 1, "width": 3}]}))
    assert tokens(result) == [5, 5, 0]
    assert bins(result) == [(512,), (1023,)]


def test_an_answer_alone_is_tokenised():
    result = read(QUERY, ReturnedRollout(output={"answer": "two"}, finish_reason=LENGTH))
    assert tokens(result) == tokenizer().encode("two")


@pytest.mark.parametrize("reasoning", ["it is red", {"text": "it is red", "grounding": []}])
def test_a_reasoning_output_is_tokenised_with_the_separator(reasoning):
    output = {"answer": "yes", "reasoning": reasoning}
    encode = tokenizer().encode
    assert tokens(read(REASONING, ReturnedRollout(output=output))) == [
        *encode("it is red"), 3, *encode("yes"), 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [{"answer_tokens": None}, {"coords": None}, {"sizes": ()}, {"coords": (1,)},
     {"answer_tokens": (5, 5)}, {"answer_tokens": ()}, {"thinking_tokens": (100,)}],
    ids=str,
)  # fmt: skip
def test_tokens_that_are_absent_or_inconsistent_are_rebuilt_from_the_output(changed):
    rollout = sampled(DETECT)
    whole = read(DETECT, returned(rollout))
    result = read(DETECT, returned(rollout, output={"objects": [BOX]}, **changed))
    assert bins(result) == [(256,), (409,), (845, 888)]
    assert not result.has_logprobs
    assert (tokens(result)[-1] == 0) == (tokens(whole)[-1] == 0)


def test_an_answer_beside_empty_answer_tokens_is_rebuilt_also_after_a_thought():
    rollout = ReturnedRollout(
        thinking_tokens=(100,),
        answer_tokens=(),
        output={"answer": "yes", "reasoning": {"text": "it is"}},
    )
    encode = tokenizer().encode
    assert tokens(read(REASONING, rollout)) == [*encode("it is"), 3, *encode("yes"), 0]


def test_a_thought_cut_by_the_limit_keeps_its_tokens():
    rollout = ReturnedRollout(
        thinking_tokens=(100, 101),
        has_answer_separator=False,
        answer_tokens=(),
        output={"answer": "", "reasoning": {"text": "whatever"}},
        finish_reason=LENGTH,
    )
    assert tokens(read(REASONING, rollout)) == [100, 101]


@pytest.mark.parametrize(
    ("request_", "output"),
    [
        (DETECT, None),
        (DETECT, {}),
        (DETECT, {"objects": None}),
        (DETECT, {"objects": 5}),
        (DETECT, {"objects": {"x_min": 0.1}}),
        (DETECT, {"objects": [{"x_min": 0.1}]}),
        (DETECT, {"objects": [{**BOX, "x_min": None}]}),
        (DETECT, {"objects": [{**BOX, "x_max": float("inf")}]}),
        (DETECT, {"objects": [{**BOX, "x_max": float("nan")}]}),
        (DETECT, {"objects": [{**BOX, "x_max": 10**400}]}),
        (DETECT, {"objects": [{**BOX, "x_max": 640}]}),  # pixels
        (DETECT, {"objects": [{**BOX, "x_max": 0.05}]}),  # min above max
        (POINT, {"points": [{"x": 0.1}]}),
        (POINT, {"points": [{"x": 0.1, "y": float("inf")}]}),
        (POINT, {"points": "none"}),
        (QUERY, {"answer": 5}),
        (QUERY, {"caption": "a cat"}),
        (REASONING, {"answer": "yes"}),
    ],
    ids=str,
)
def test_nothing_usable_is_refused(request_, output):
    assert refusal(request_, ReturnedRollout(output=output)).loc == LOC


def test_an_output_that_makes_no_sense_does_not_spoil_whole_tokens():
    for output in ({"objects": [{"x_min": float("inf")}]}, {"objects": 7}, {"answer": []}, None):
        result = read(DETECT, returned(sampled(DETECT), output=output))
        assert result.has_logprobs


# Out of range


@pytest.mark.parametrize(
    ("changed", "loc"),
    [
        ({"answer_tokens": (5, 512, 6)}, ("answer_tokens", 1)),
        ({"answer_tokens": (-1, 5, 6)}, ("answer_tokens", 0)),
        ({"thinking_tokens": (10**30,)}, ("thinking_tokens", 0)),
        ({"coords": (0, 1024)}, ("coords", 1)),
        ({"coords": (-1, 3)}, ("coords", 0)),
        ({"sizes": ((3, 1024),)}, ("sizes", 1)),
        ({"sizes": ((3, 4), (1, 2, 3))}, ("sizes", 1)),
        ({"sizes": ((3,),)}, ("sizes", 0)),
    ],
    ids=str,
)
def test_ids_and_bins_out_of_range_are_refused_by_name(changed, loc):
    error = refusal(DETECT, returned(sampled(DETECT), **changed))
    assert error.loc == (*LOC, *loc)
    assert error.code == "validation_error"


# Warnings


def warning(request: TunableRequest, output: dict[str, Any]) -> str | None:
    result = read(request, returned(sampled(request), output=output))
    assert result.has_logprobs  # the tokens are what is trained
    return result.warning


def test_an_edge_may_move_by_a_hundredth():
    box = dict(sampled(DETECT).output["objects"][0])
    others = sampled(DETECT).output["objects"][1:]
    for moved, is_warned in ((0.0099, False), (0.0101, True)):
        edited = {**box, "y_max": box["y_max"] + moved}
        assert (warning(DETECT, {"objects": [edited, *others]}) is not None) is is_warned
        assert (warning(DETECT, {"boxes": [edited, *others]}) is not None) is is_warned


def test_another_count_of_objects_is_warned_of():
    objects = sampled(DETECT).output["objects"]
    assert warning(DETECT, {"objects": [*objects, BOX]})
    points = sampled(POINT).output["points"]
    assert warning(POINT, {"points": points[1:]})
    assert warning(POINT, {"points": [{"x": 2, "y": 10**400}] * len(points)})


def test_other_words_are_warned_of_and_other_spaces_are_not():
    answer = sampled(QUERY).output["answer"]
    assert warning(QUERY, {"answer": f"  {answer}\n"}) is None
    assert warning(QUERY, {"answer": f"{answer} and more"})
    assert warning(QUERY, {"answer": ["no text"]})
    assert warning(QUERY, {}) is None


def test_other_words_of_the_reasoning_are_warned_of():
    output = sampled(REASONING).output
    text = output["reasoning"]["text"]
    assert warning(REASONING, {**output, "reasoning": text}) is None
    assert warning(REASONING, {**output, "reasoning": {"text": text + " indeed"}})


def test_a_warning_names_the_rollout():
    message = warning(POINT, {"points": []})
    assert message is not None
    assert message.startswith("groups.2.rollouts.1:")


# Log-probabilities


def with_logprobs(rollout: Rollout, **changed: Any) -> bool:
    given = {**rollout.logprobs, **changed}
    return read(Q[rollout.skill], returned(rollout, logprobs=given)).has_logprobs


Q: dict[Skill, TunableRequest] = {Skill.DETECT: DETECT, Skill.QUERY: QUERY}


def test_the_logprobs_of_every_draw_come_back():
    rollout = sampled(DETECT)
    result = read(DETECT, returned(rollout))
    drawn = [lp for action in result.actions for lp in action.bin_logprobs or ()]
    sent = iter(rollout.logprobs["coords"])
    pairs = iter(rollout.logprobs["sizes"])
    expected = [
        value
        for token in rollout.answer_tokens
        for value in ([next(sent)] if token == 5 else next(pairs))
    ]
    assert drawn == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"v": 2},
        {"v": None},
        {"digest": "0" * 16},
        {"digest": None},
        {"answer": []},
        {"answer": None},
        {"answer": 3},
        {"coords": [-1.0]},
        {"sizes": [[-1.0]]},
        {"sizes": None},
        {"thinking": [-1.0]},
        {"thinking": "x"},
    ],
    ids=str,
)
def test_logprobs_that_are_not_whole_are_not_used(changed):
    rollout = sampled(DETECT)
    assert with_logprobs(rollout)
    assert not with_logprobs(rollout, **changed)


@pytest.mark.parametrize("value", [None, "x", True, float("nan"), float("-inf"), 0.1, 10**400,
                                   -(10**400)], ids=str)  # fmt: skip
def test_a_value_that_is_no_logprob_spoils_them(value):
    rollout = sampled(QUERY, STOP)
    answer = rollout.logprobs["answer"]
    assert not with_logprobs(rollout, answer=[value, *answer[1:]])
    assert not with_logprobs(rollout, stop=value)
    assert with_logprobs(rollout, stop=-2)
    assert with_logprobs(rollout, stop=1e-4)  # rounding


def test_too_many_values_spoil_them():
    rollout = sampled(DETECT)
    coords, sizes = rollout.logprobs["coords"], rollout.logprobs["sizes"]
    assert not with_logprobs(rollout, coords=[*coords, -1.0])
    assert not with_logprobs(rollout, sizes=[*sizes, [-1.0, -1.0]])


@pytest.mark.parametrize("changed", [{"coords": (1, 2)}, {"finish_reason": "other"}], ids=str)
def test_logprobs_of_another_rollout_are_ignored(changed):
    rollout = next(
        r for r in sample_rollouts(micro_model(), POINT, num_rollouts=32) if len(r.coords) == 2
    )
    if "finish_reason" in changed:
        changed = {"finish_reason": LENGTH if rollout.finish_reason is STOP else STOP}
    assert not read(POINT, returned(rollout, **changed)).has_logprobs


def test_absent_logprobs_are_absent():
    assert not read(DETECT, returned(sampled(DETECT), logprobs=None)).has_logprobs
    assert not read(DETECT, returned(sampled(DETECT), logprobs={})).has_logprobs


def test_a_returned_rollout_is_not_changed():
    rollout = returned(sampled(DETECT))
    copy = replace(rollout)
    read(DETECT, rollout)
    assert rollout == copy
