"""What goes out as a rollout comes back as the same actions, whatever was drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.codec import from_plain, to_plain
from contract.skills import FinishReason, ReturnedRollout, Settings, Skill
from tests.micro import DETECT, POINT, QUERY, REASONING, micro_language
from trainer.rollouts import make_rollout, read_rollout
from trainer.sequence import Action, Trace
from trainer.skills import SKILLS
from trainer.skills.base import Language

FAMILIES = ("moondream3", "moondream2")
SPECIAL = st.sampled_from([0, 3, 5, 5, 6, 7, 9])


@st.composite
def traces(draw: st.DrawFn, request: Any, language: Language) -> Trace:
    """Any answer the grammar of the skill admits, up to a limit of its own."""
    grammar = SKILLS[Skill(request.skill)].grammar(request, language)
    limit = draw(st.integers(1, 4))
    limit = grammar.most_actions(
        Settings(temperature=1.0, max_tokens=4 * limit, max_objects=limit), 100
    )
    logprob = st.floats(-30.0, 0.0)
    actions: list[Action] = []
    while len(actions) < limit and not (actions and actions[-1].token == 0):
        mask = grammar.mask()
        if mask.allowed is not None:
            token = draw(st.sampled_from(mask.allowed))
        else:
            token = draw((SPECIAL | st.integers(0, 511)).filter(mask.admits))
        bins = tuple(draw(st.integers(0, 1023)) for _ in range(language.num_bins_of(token)))
        actions.append(
            Action(
                token=token,
                mask=mask,
                bins=bins,
                token_logprob=0.0 if mask.is_forced else draw(logprob),
                bin_logprobs=tuple(draw(logprob) for _ in bins),
            )
        )
        grammar.push(token)
    is_stopped = actions[-1].token == 0
    return Trace(
        actions=tuple(actions),
        finish_reason=FinishReason.STOP if is_stopped else FinishReason.LENGTH,
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_rollout_comes_back_as_the_actions_that_were_drawn(data):
    request = data.draw(st.sampled_from([QUERY, REASONING, POINT, DETECT]))
    language = micro_language(data.draw(st.sampled_from(FAMILIES)))
    trace = data.draw(traces(request, language))
    rollout = make_rollout(request, trace, policy_step=3, language=language)
    on_the_wire = json.loads(json.dumps(to_plain(rollout), allow_nan=False))
    read = read_rollout(
        request, from_plain(ReturnedRollout, on_the_wire), language=language, loc=("groups", 0)
    )
    assert read.actions == trace.actions
    assert read.has_logprobs
    assert read.policy_step == 3
    assert read.warning is None


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_an_answer_mark_that_is_fed_twice_is_drawn_and_told_once(data):
    """The form that one engine has for Moondream 2; a limit may fall between the two."""
    once = micro_language("moondream2")
    ids = replace(once.ids, post_reasoning_answer_tokens=2)
    language = replace(once, ids=ids)
    trace = data.draw(traces(REASONING, language))
    rollout = make_rollout(REASONING, trace, policy_step=3, language=language)
    tokens = [action.token for action in trace.actions]
    if 3 in tokens[:-1]:
        first = tokens.index(3)
        assert trace.actions[first + 1].token == 3
        assert trace.actions[first + 1].num_draws == 0
    returned = from_plain(ReturnedRollout, to_plain(rollout))
    read = read_rollout(REASONING, returned, language=language, loc=())
    assert [a for a in read.actions if a.num_draws] == [a for a in trace.actions if a.num_draws]
    assert read.has_logprobs
    told = [*rollout.thinking_tokens, *[3] * rollout.has_answer_separator, *rollout.answer_tokens]
    assert told == [a.token for a in trace.actions if a.num_draws and a.token != 0]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_without_logprobs_the_actions_are_the_same_and_nothing_is_made_up(data):
    request = data.draw(st.sampled_from([QUERY, REASONING, POINT, DETECT]))
    language = micro_language()
    trace = data.draw(traces(request, language))
    plain = to_plain(make_rollout(request, trace, policy_step=3, language=language))
    read = read_rollout(
        request,
        from_plain(ReturnedRollout, {**plain, "logprobs": None}),
        language=language,
        loc=("groups", 0),
    )
    assert not read.has_logprobs
    assert [(a.token, a.bins, a.mask) for a in read.actions] == [
        (a.token, a.bins, a.mask) for a in trace.actions
    ]
    assert all(action.logprob is None for action in read.actions)
