"""Traces become the rollouts of the wire, and rollouts that come back become traces again.

Source: http-api.md 8.6 (going out) and 10.3 (coming back).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contract.errors import RequestRefused
from contract.skills import FinishReason, ReturnedRollout, Rollout, Skill, TunableRequest
from trainer.model.config import NUM_BINS
from trainer.sequence import Action, Trace
from trainer.skills import SKILLS
from trainer.skills.base import Language, WireTrace, from_wire, to_wire
from trainer.skills.query import reasoning_text

LOGPROBS_VERSION = 1
ROUNDING = 1e-3
"""How far above 0 a log-probability may lie that was rounded on its way."""

EDGE_TOLERANCE = 0.01
"""How far an edge of an edited output may lie from what the tokens say before a warning."""

Loc = tuple[str | int, ...]


def make_rollout(
    request: TunableRequest, trace: Trace, *, policy_step: int, language: Language
) -> Rollout:
    """A finished trace as it goes out."""
    skill = Skill(request.skill)
    wire = to_wire(trace.actions, is_reasoning=is_reasoning(request), language=language)
    digest = _digest(skill, wire, trace.finish_reason)
    return Rollout(
        skill=skill,
        finish_reason=trace.finish_reason,
        output=SKILLS[skill].output(request, wire, language),
        answer_tokens=wire.answer_tokens,
        thinking_tokens=wire.thinking_tokens,
        has_answer_separator=wire.has_answer_separator,
        coords=wire.coords,
        sizes=wire.sizes,
        policy_step=policy_step,
        logprobs=_logprobs(trace.actions, wire, digest),
    )


@dataclass(frozen=True, kw_only=True)
class ReadRollout:
    """A returned rollout as something to train on.

    `has_logprobs` says that every action carries the sampler's log-probabilities.
    """

    actions: tuple[Action, ...]
    has_logprobs: bool
    policy_step: int | None
    warning: str | None


def read_rollout(
    request: TunableRequest, returned: ReturnedRollout, *, language: Language, loc: Loc
) -> ReadRollout:
    """Understand a rollout that came back: its tokens, or, failing that, its output.

    Raises:
        RequestRefused: Ids or bins out of range, another skill, or nothing usable at all.
    """
    skill = Skill(request.skill)
    if returned.skill is not None and returned.skill is not skill:
        raise RequestRefused(
            f"The rollout is of skill {returned.skill.value}, its request of {skill.value}.",
            loc=(*loc, "skill"),
        )
    wire = _wire_of(returned, language, loc)
    rules = SKILLS[skill]
    output = returned.output or {}
    actions = None
    if _has_tokens(returned) and not _says_more(output, wire):
        actions = _replay(request, wire, language)
    if actions is not None:
        finish_reason = FinishReason.STOP if wire.is_stopped else FinishReason.LENGTH
        logprobs = _read_logprobs(returned.logprobs, actions, wire, skill, finish_reason, language)
        return ReadRollout(
            actions=logprobs or actions,
            has_logprobs=logprobs is not None,
            policy_step=returned.policy_step,
            warning=_difference(rules.output(request, wire, language), output, loc),
        )
    from_output = rules.wire_from_output(request, output, language)
    if from_output is not None:
        rebuilt = replace(from_output, is_stopped=wire.is_stopped)
        actions = _replay(request, rebuilt, language)
    if actions is None:
        raise RequestRefused(
            "The rollout has neither tokens that fit together nor an output to rebuild them from; "
            "send it back as /rollouts gave it.",
            loc=loc,
        )
    return ReadRollout(
        actions=actions, has_logprobs=False, policy_step=returned.policy_step, warning=None
    )


def is_reasoning(request: Any) -> bool:
    return getattr(request, "reasoning", False)


def _replay(
    request: TunableRequest, wire: WireTrace, language: Language
) -> tuple[Action, ...] | None:
    grammar = SKILLS[Skill(request.skill)].grammar(request, language)
    return from_wire(wire, grammar, is_reasoning=is_reasoning(request), language=language)


def _has_tokens(returned: ReturnedRollout) -> bool:
    return returned.answer_tokens is not None or bool(returned.thinking_tokens)


def _says_more(output: dict[str, Any], wire: WireTrace) -> bool:
    """Whether an output says something in a place where the tokens say nothing."""
    has_answer = any(output.get(key) for key in ("answer", "points", "objects", "boxes"))
    if has_answer and not wire.answer_tokens:
        return True
    has_thought = bool(reasoning_text(output.get("reasoning")))
    return has_thought and not (wire.answer_tokens or wire.thinking_tokens)


def _wire_of(returned: ReturnedRollout, language: Language, loc: Loc) -> WireTrace:
    """The token fields with their defaults; ids and bins are certain to be in range."""
    answer = list(returned.answer_tokens or ())
    thinking = tuple(returned.thinking_tokens or ())
    is_stopped = returned.finish_reason is not FinishReason.LENGTH
    if answer and answer[-1] == language.ids.eos_id:
        answer.pop()
        is_stopped = True
    _check_range("answer_tokens", answer, language.vocab_size, loc)
    _check_range("thinking_tokens", thinking, language.vocab_size, loc)
    coords = tuple(returned.coords or ())
    _check_range("coords", coords, NUM_BINS, loc)
    sizes: list[tuple[int, int]] = []
    for index, pair in enumerate(returned.sizes or ()):
        if len(pair) != 2:
            raise RequestRefused(
                f"A size is a pair of bins (width, height), got {len(pair)} numbers.",
                loc=(*loc, "sizes", index),
            )
        _check_range("sizes", pair, NUM_BINS, loc)
        sizes.append((pair[0], pair[1]))
    has_separator = returned.has_answer_separator
    return WireTrace(
        thinking_tokens=thinking,
        has_answer_separator=bool(thinking) if has_separator is None else has_separator,
        answer_tokens=tuple(answer),
        coords=coords,
        sizes=tuple(sizes),
        is_stopped=is_stopped,
    )


def _check_range(name: str, values: Iterable[int], end: int, loc: Loc) -> None:
    for index, value in enumerate(values):
        if not 0 <= value < end:
            raise RequestRefused(
                f"{name} holds {value}; the values of this model lie in 0-{end - 1}.",
                loc=(*loc, name, index),
            )


def _digest(skill: Skill, wire: WireTrace, finish_reason: FinishReason) -> str:
    """First 16 hex digits of SHA-256 over the canonical JSON of what was drawn."""
    parts = [
        skill.value,
        wire.thinking_tokens,
        wire.has_answer_separator,
        wire.answer_tokens,
        wire.coords,
        wire.sizes,
        finish_reason.value,
    ]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _logprobs(actions: Sequence[Action], wire: WireTrace, digest: str) -> dict[str, Any]:
    """The opaque `logprobs` object, aligned with the lists of the wire."""
    tokens = [action.token_logprob for action in actions]
    num_thinking, num_answer = len(wire.thinking_tokens), len(wire.answer_tokens)
    first_answer = len(tokens) - wire.is_stopped - num_answer
    return {
        "v": LOGPROBS_VERSION,
        "digest": digest,
        "thinking": tokens[:num_thinking],
        "separator": tokens[num_thinking] if wire.has_answer_separator else None,
        "answer": tokens[first_answer : first_answer + num_answer],
        "stop": tokens[-1] if wire.is_stopped else None,
        "coords": [lp for a in actions if len(a.bins) == 1 for lp in a.bin_logprobs or ()],
        "sizes": [list(a.bin_logprobs or ()) for a in actions if len(a.bins) == 2],
    }


def _read_logprobs(
    given: dict[str, Any] | None,
    actions: Sequence[Action],
    wire: WireTrace,
    skill: Skill,
    finish_reason: FinishReason,
    language: Language,
) -> tuple[Action, ...] | None:
    """The actions with the sampler's log-probabilities, or None unless they are whole and fit."""
    if given is None or given.get("v") != LOGPROBS_VERSION:
        return None
    if given.get("digest") != _digest(skill, wire, finish_reason):
        return None
    try:
        thinking, answer = _numbers(given["thinking"]), _numbers(given["answer"])
        coords = _numbers(given["coords"])
        sizes = [_numbers(pair) for pair in given["sizes"]]
        separator = _numbers([given["separator"]] if wire.has_answer_separator else [])
        stop = _numbers([given["stop"]] if wire.is_stopped else [])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    lengths = (len(thinking), len(answer), len(coords), [len(pair) for pair in sizes])
    wanted = (len(wire.thinking_tokens), len(wire.answer_tokens), len(wire.coords))
    if lengths != (*wanted, [2] * len(wire.sizes)):
        return None
    # what a grammar repeats after the separator is forced, and forced tokens are certain
    num_repeated = len(actions) - len((*thinking, *separator, *answer, *stop))
    tokens = (*thinking, *separator, *[0.0] * num_repeated, *answer, *stop)
    bins_of = {0: iter([()] * len(actions)), 1: iter((lp,) for lp in coords), 2: iter(sizes)}
    return tuple(
        replace(action, token_logprob=token, bin_logprobs=next(bins_of[len(action.bins)]))
        for action, token in zip(actions, tokens, strict=True)
    )


def _numbers(values: Any) -> tuple[float, ...]:
    """Log-probabilities as floats.

    Raises:
        TypeError: Not a list of numbers.
        ValueError: One is not finite or, beyond rounding, positive.
        OverflowError: An integer that no float can hold.
    """
    if not isinstance(values, list):
        raise TypeError("log-probabilities come as a list")
    for value in values:
        if type(value) not in (int, float):
            raise TypeError("a log-probability is a number")
        if not math.isfinite(value) or value > ROUNDING:
            raise ValueError("a log-probability is finite and not above 0")
    return tuple(float(value) for value in values)


def _difference(drawn: dict[str, Any], given: dict[str, Any], loc: Loc) -> str | None:
    """A warning when an output says something else than the tokens that are trained."""
    where = ".".join(str(part) for part in loc)
    for key, mine in drawn.items():
        theirs = given.get(key, given.get("boxes") if key == "objects" else None)
        if theirs is None:
            continue
        if key == "reasoning":
            is_same = _same_words(mine["text"], reasoning_text(theirs))
        elif isinstance(mine, str):
            is_same = _same_words(mine, theirs)
        else:
            is_same = _same_objects(mine, theirs)
        if not is_same:
            return f"{where}: output differs from the tokens; the tokens were trained."
    return None


def _same_words(mine: str, theirs: Any) -> bool:
    return isinstance(theirs, str) and mine.split() == theirs.split()


def _same_objects(mine: list[dict[str, float]], theirs: Any) -> bool:
    if not isinstance(theirs, list) or len(mine) != len(theirs):
        return False
    try:
        return all(
            abs(value - float(other[name])) <= EDGE_TOLERANCE
            for box, other in zip(mine, theirs, strict=True)
            for name, value in box.items()
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
