"""What a stream tells of an answer whose characters come in several tokens."""

from __future__ import annotations

import pytest

from contract.engine import AnswerDelta
from contract.skills import CaptionRequest, ChatRequest, ChatTurn, FinishReason, QueryRequest
from tests.micro import micro_language
from trainer.drawing import Heat, Rollout
from trainer.sequence import Action, Mask
from trainer.skills import SKILLS
from trainer.streaming import AnswerStream

TEXT = "日本 🤖 é, then  two spaces"
ANY = Mask()
LANGUAGE = micro_language()
EOS, ANSWER = LANGUAGE.ids.eos_id, LANGUAGE.ids.answer_id


def bytes_of(text: str) -> list[int]:
    """Tokens of each character by itself, so that words of the vocabulary are taken apart."""
    return [token for character in text for token in LANGUAGE.tokenizer.encode(character)]


def told(request, tokens: list[int], *, finish_reason=FinishReason.STOP) -> list[AnswerDelta]:
    """Everything that is told while these tokens are drawn one by one."""
    deltas: list[AnswerDelta] = []
    stream = AnswerStream(request, LANGUAGE, deltas.append)
    skill = SKILLS[request.skill]
    rollout = Rollout(
        index=0,
        seed=0,
        heat=Heat(temperature=1.0, top_p=1.0),
        grammar=skill.grammar(request, LANGUAGE),
    )
    for number, token in enumerate(tokens, 1):
        rollout.actions.append(Action(token=token, mask=ANY))
        if number == len(tokens):
            rollout.finish_reason = finish_reason
        stream.grow(rollout)
    return deltas


def test_a_character_is_told_whole() -> None:
    tokens = bytes_of(TEXT)
    assert len(tokens) > len(TEXT)  # some characters take several tokens
    deltas = told(CaptionRequest(image=0), [*tokens, EOS])
    assert "".join(delta.text for delta in deltas) == TEXT
    assert len(deltas) > 10
    assert "\ufffd" not in "".join(delta.text for delta in deltas)
    assert not any(delta.text.endswith(" ") for delta in deltas)  # who knows what follows


@pytest.mark.parametrize("reason", FinishReason)
def test_an_answer_that_ends_within_a_character_says_so_at_its_end_only(reason) -> None:
    cut = bytes_of("a 🤖")[:-1]
    tokens = [*cut, EOS] if reason is FinishReason.STOP else cut
    *first, last = told(CaptionRequest(image=0), tokens, finish_reason=reason)
    assert [delta.text for delta in first] == ["a"]
    assert "\ufffd" in last.text
    whole = LANGUAGE.tokenizer.decode(cut).strip()
    assert "".join(delta.text for delta in (*first, last)) == whole


@pytest.mark.parametrize(
    "request_",
    [
        QueryRequest(question="?", reasoning=True),
        ChatRequest(turns=(ChatTurn(text="?"),), reasoning=True),
    ],
    ids=["query", "chat"],
)
def test_a_thought_is_told_first_and_whole_when_the_answer_begins(request_) -> None:
    tokens = [*bytes_of("hm 🤖 "), ANSWER, *bytes_of(" so")]
    deltas = told(request_, [*tokens, EOS])
    thought = [delta.reasoning for delta in deltas if delta.reasoning]
    assert "".join(thought) == "hm 🤖"
    assert [delta.text for delta in deltas if delta.text] == ["s", "o"]
    assert [bool(delta.text) for delta in deltas] == [False] * len(thought) + [True] * 2
