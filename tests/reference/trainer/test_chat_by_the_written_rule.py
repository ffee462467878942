"""Conversations with several pictures against a twin written from model-facts.md alone.

The hidden state of every position is compared: which pictures a position sees shows in all of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from contract.skills import ChatRequest, ChatTurn, Pixels
from tests.reference.model.naive_moondream import ANSWER, END, THINKING, Item, NaiveMoondream
from trainer.batching import Row, make_batch
from trainer.loading import LoadedModel, load
from trainer.prefill import prefill
from trainer.prompts import prompt_row

ORACLE = Path(__file__).parent.parent / "oracle"
FAMILIES = ("moondream2", "moondream3")
NUM_PICTURES = 4

FLOAT32_RELATIVE = 1e-5

CAR, WHERE, MANY = "what color is the car?", "the red button", "How many people are there?"
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "no picture": {"turns": [(CAR, "", None)]},
    "one picture in front": {"turns": [(CAR, "0", None)]},
    "two pictures in one turn": {"turns": [(CAR, "02", None)]},
    "pictures in two turns": {"turns": [(CAR, "1", "red, I think"), (WHERE, "3", None)]},
    "picture in the second turn only": {"turns": [(CAR, "", "blue"), (WHERE, "2", None)]},
    "same picture twice": {"turns": [(CAR, "1", "red"), (WHERE, "1", None)]},
    "three turns": {"turns": [(CAR, "", "red"), (WHERE, "0", "near the dog"), (MANY, "", None)]},
    "system text": {
        "turns": [(CAR, "3", "red"), (MANY, "", None)],
        "system": "Please count the objects.",
    },
    "system text, no picture": {"turns": [(CAR, "", None)], "system": "Please count."},
    "reasoning": {"turns": [(CAR, "1", None)], "reasoning": True},
    "reasoning in the last turn of two": {
        "turns": [(CAR, "0", "red"), (MANY, "", None)],
        "system": "Please count the objects.",
        "reasoning": True,
    },
}

of_each_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def twin_of(family: str) -> NaiveMoondream:
    return NaiveMoondream(ORACLE / family)


@cache
def loaded(family: str) -> LoadedModel:
    return load(ORACLE / family, name=family, device="cpu", dtype="float32")


@cache
def features(family: str) -> dict[str, torch.Tensor]:
    expected = load_file(ORACLE / family / "expected.safetensors")
    return {str(i): expected[f"image.{i}.features"] for i in range(NUM_PICTURES)}


def twin_items(family: str, turns: list[tuple[str, str, str | None]], **options: Any) -> list[Item]:
    told = [(text, [features(family)[p] for p in pictures], a) for text, pictures, a in turns]
    return twin_of(family).conversation(told, **options)


def product_row(family: str, turns: list[tuple[str, str, str | None]], **options: Any) -> Row:
    told = tuple(
        ChatTurn(text=text, images=tuple(map(int, p)), answer=answer) for text, p, answer in turns
    )
    images = [Pixels(height=1, width=1, digest=str(i), data=bytes(3)) for i in range(NUM_PICTURES)]
    return prompt_row(ChatRequest(turns=told, **options), images, loaded(family).language)


def product_states(family: str, row: Row) -> torch.Tensor:
    """[T, D] of our own model."""
    model = loaded(family).model
    batch = make_batch(model, [row], features(family))
    with torch.no_grad():
        return model.text(
            batch.embeds_BTD,
            positions_BT=batch.positions_1T,
            attention_mask_BTS=batch.mask_1TT,
            prefix_len=batch.prefix_len,
        )[0]


@pytest.mark.parametrize("name", CONVERSATIONS)
@of_each_family
def test_a_conversation_by_the_written_rule(family, name):
    """By the written rule: hidden states of all positions and the last logits, to 1e-5.

    The prefill, which computes of its last layer only what answers read, ends in the same state.
    """
    twin, model = twin_of(family), loaded(family).model
    wanted_TD = twin.states(twin_items(family, **CONVERSATIONS[name]))
    row = product_row(family, **CONVERSATIONS[name])
    got_TD = product_states(family, row)
    assert len(got_TD) == row.num_positions(model.config.vision.num_image_tokens)
    assert got_TD.shape == wanted_TD.shape
    assert relative_l2(got_TD, wanted_TD).max() < FLOAT32_RELATIVE
    with torch.no_grad():
        logits_V = model.text.logits(got_TD[-1])
    assert relative_l2(logits_V, twin.token_logits(wanted_TD[-1])) < FLOAT32_RELATIVE
    prefix = prefill(model, None, row, features(family))
    assert relative_l2(prefix.last_hidden_D, wanted_TD[-1]) < FLOAT32_RELATIVE


@of_each_family
def test_the_words_of_a_conversation_by_the_written_rule(family):
    """By the written rule: the twin's own items, written out."""
    twin = twin_of(family)
    marks = [ANSWER] if family == "moondream3" else [ANSWER, ANSWER]
    opener = [THINKING] if family == "moondream3" else [ANSWER, THINKING]
    prefix = [1, 24, 2]  # the oracle's word for query is 24

    items = twin_items(
        family, [(CAR, "0", "red"), (WHERE, "12", None)], system="Please.", reasoning=True
    )

    def encode(text: str) -> list[int]:
        return twin.tokenizer.encode(text).ids

    wanted = [END, "0", *prefix, *encode(f"Please.\n\n{CAR}"), *marks, *encode("red")]
    wanted += ["1", "2", *prefix, *encode(WHERE), *opener]
    names = {id(tensor): name for name, tensor in features(family).items()}
    assert [names[id(i)] if isinstance(i, torch.Tensor) else i for i in items] == wanted


@of_each_family
def test_a_conversation_of_one_turn_is_a_query_by_the_written_rule(family):
    """By the written rule: the same items as the query skill, whose answers the oracle holds."""
    for reasoning in (False, True):
        chat = twin_items(family, [(CAR, "", None)], reasoning=reasoning)
        assert chat == twin_of(family).prompt("query", CAR, reasoning=reasoning)


def relative_l2(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Over the last axis."""
    return (got - wanted).norm(dim=-1) / wanted.norm(dim=-1)
