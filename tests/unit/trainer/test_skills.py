"""Prompts, grammars, outputs and targets of the skills, for both families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from contract.skills import (
    Box,
    CaptionRequest,
    DetectRequest,
    DetectTarget,
    Grounding,
    GroundTruth,
    Point,
    PointRequest,
    PointTarget,
    QueryRequest,
    QueryTarget,
    Reasoning,
    SegmentRequest,
    Settings,
    Skill,
)
from tests.micro import micro_language, tokenizer
from trainer.sequence import Action, Element, Mask, spatial_elements
from trainer.skills import SKILLS
from trainer.skills.base import WireTrace, from_wire, read_coordinate, to_wire
from trainer.skills.segment import path_of

THIRD, SECOND = "moondream3", "moondream2"
DETECT, POINT = DetectRequest(object="cat", image=0), PointRequest(object="cat", image=0)


def prompt(request: Any, family: str) -> list[Element]:
    return SKILLS[Skill(request.skill)].prompt(request, micro_language(family))


def ids(elements: list[Element]) -> list[int]:
    return [element.token for element in elements]


# Prompts


@pytest.mark.parametrize(
    ("reasoning", "family", "opener"),
    [
        (False, THIRD, [3]),
        (True, THIRD, [4]),
        (False, SECOND, [3, 3]),
        (True, SECOND, [3, 4]),
    ],
)
def test_a_query_ends_with_its_opener(reasoning, family, opener):
    text = tokenizer().encode("who?")
    request = QueryRequest(question="who?", reasoning=reasoning)
    assert ids(prompt(request, family)) == [1, 10, 2, *text, *opener]


@pytest.mark.parametrize("family", [THIRD, SECOND])
def test_detect_and_point_put_a_space_before_the_object(family):
    text = tokenizer().encode(" cat")
    assert ids(prompt(DETECT, family)) == [1, 15, 16, 2, *text, 3]
    assert ids(prompt(POINT, family)) == [1, 17, 2, *text, 3]


@pytest.mark.parametrize(("length", "token"), [("short", 12), ("normal", 13), ("long", 14)])
def test_a_caption_names_its_length(length, token):
    assert ids(prompt(CaptionRequest(image=0, length=length), THIRD)) == [1, 11, 2, token, 3]


@pytest.mark.parametrize("reasoning", [False, True])
def test_spatial_references_stand_before_the_question_as_values(reasoning):
    refs = ((0.25, 0.5), (0.1, 0.2, 0.5, 0.8))
    request = QueryRequest(question="who?", image=0, spatial_refs=refs, reasoning=reasoning)
    elements = prompt(request, THIRD)[3:8]
    assert ids(elements) == [5, 5, 5, 5, 6]
    # a point as it is; a box as its centre (0.3, 0.5) and its size (0.4, 0.6), not binned
    expected = [(0.25,), (0.5,), (0.3,), (0.5,), (0.4, 0.6)]
    for element, values in zip(elements, expected, strict=True):
        assert element.values == pytest.approx(values)


def test_a_reference_of_three_numbers_is_an_error():
    with pytest.raises(ValueError, match="2 or 4"):
        spatial_elements([(0.1, 0.2, 0.3)], coord_id=5, size_id=6)


# Grammars


def grammar(request: Any, family: str = THIRD):
    return SKILLS[Skill(request.skill)].grammar(request, micro_language(family))


def masks_along(request: Any, tokens: list[int], family: str = THIRD) -> list[Mask]:
    state, masks = grammar(request, family), []
    for token in tokens:
        masks.append(state.mask())
        assert masks[-1].admits(token)
        state.push(token)
    return [*masks, state.mask()]


def test_detect_draws_a_start_or_the_end_and_then_is_forced():
    masks = masks_along(DETECT, [5, 5, 6, 5, 5, 6])
    assert [mask.allowed for mask in masks] == [(5, 0), (5,), (6,), (5, 0), (5,), (6,), (5, 0)]
    assert [mask.is_forced for mask in masks] == [False, True, True, False, True, True, False]


def test_point_draws_pairs():
    masks = masks_along(POINT, [5, 5, 5, 5, 0])
    assert [mask.allowed for mask in masks][:5] == [(5, 0), (5,), (5, 0), (5,), (5, 0)]


@pytest.mark.parametrize("reasoning", [False, True])
def test_text_of_moondream_3_is_free(reasoning):
    request = QueryRequest(question="?", reasoning=reasoning)
    assert set(masks_along(request, [100, 5, 3, 6, 0])) == {Mask()}


def test_moondream_2_never_ends_while_it_thinks_nor_answers_twice():
    thinking, answer = Mask(suppressed=(0, 6)), Mask(suppressed=(3,))
    request = QueryRequest(question="?", reasoning=True)
    assert masks_along(request, [100, 5, 3, 6], SECOND) == [thinking] * 3 + [answer] * 2
    plain = QueryRequest(question="?")
    assert masks_along(plain, [100], SECOND) == [answer] * 2
    assert masks_along(CaptionRequest(image=0), [100], SECOND) == [answer] * 2


@pytest.mark.parametrize(
    ("request_", "settings", "room", "most"),
    [
        (DETECT, {"max_objects": 4}, 100, 12),
        (DETECT, {"max_objects": 50}, 11, 9),  # the context ends in the fourth box
        (POINT, {"max_objects": 4}, 100, 8),
        (POINT, {"max_objects": 50}, 11, 10),
        (DETECT, {"max_objects": 1}, 4, 3),
        (QueryRequest(question="?"), {"max_tokens": 7}, 100, 7),
        (QueryRequest(question="?"), {"max_tokens": 70}, 12, 12),
    ],
)
def test_the_cap_is_whole_objects_and_fits_the_context(request_, settings, room, most):
    assert grammar(request_).most_actions(Settings(temperature=1.0, **settings), room) == most


def test_max_tokens_does_not_cap_objects():
    settings = Settings(temperature=1.0, max_tokens=3, max_objects=9)
    assert grammar(DETECT).most_actions(settings, 1000) == 27


# Outputs


def output(request: Any, **wire: Any) -> dict[str, Any]:
    trace = WireTrace(**wire)
    return SKILLS[Skill(request.skill)].output(request, trace, micro_language())


def test_a_box_is_its_centre_and_half_its_size_clamped():
    # 8.6: centre bins 261 and 409, size bins 830 and 872
    found = output(DETECT, answer_tokens=(5, 5, 6), coords=(261, 409), sizes=((830, 872),))
    x, y = 261 / 1023, 409 / 1023
    w, h = 2 ** (830 / 1023 * 10 - 10), 2 ** (872 / 1023 * 10 - 10)
    assert found == {
        "objects": [
            {"x_min": x - w / 2, "y_min": y - h / 2, "x_max": x + w / 2, "y_max": y + h / 2}
        ]
    }
    wide = output(DETECT, answer_tokens=(5, 5, 6), coords=(0, 1023), sizes=((1023, 1023),))
    assert wide == {"objects": [{"x_min": 0.0, "y_min": 0.5, "x_max": 0.5, "y_max": 1.0}]}


def test_points_come_in_the_order_drawn():
    assert output(POINT, answer_tokens=(5,) * 4, coords=(0, 1023, 512, 256)) == {
        "points": [{"x": 0.0, "y": 1.0}, {"x": 512 / 1023, "y": 256 / 1023}]
    }


def test_an_answer_has_no_space_around_it_and_no_spatial_marks():
    tokens = tokenizer().encode(" a cat ")
    request = QueryRequest(question="?")
    drawn = (tokens[0], 5, 7, *tokens[1:], 6, 9)
    assert output(request, answer_tokens=drawn, coords=(1,), sizes=((1, 2),)) == {"answer": "a cat"}


def test_a_plain_query_has_no_reasoning_and_a_reasoning_one_always():
    assert output(QueryRequest(question="?"), answer_tokens=()) == {"answer": ""}
    assert output(QueryRequest(question="?", reasoning=True), answer_tokens=()) == {
        "answer": "",
        "reasoning": {"text": "", "grounding": []},
    }


def test_grounding_counts_characters_of_the_stripped_text():
    encode = tokenizer().encode
    thinking = [*encode("  The "), 7, *encode("red circle"), 5, 5, 5, 5, 9, *encode(" is near "), 7]
    thinking += [*encode("it"), 5, 5, 5, 9, *encode(" "), 7, *encode("here"), 9, *encode(" ")]
    found = output(
        QueryRequest(question="?", reasoning=True),
        thinking_tokens=tuple(thinking),
        has_answer_separator=True,
        coords=(0, 1023, 341, 682, 1023, 0, 7),
    )["reasoning"]
    assert found["text"] == "The red circle is near it here"
    assert [found["text"][g["start_idx"] : g["end_idx"]] for g in found["grounding"]] == [
        "red circle",
        "it",
    ]
    assert [g["points"] for g in found["grounding"]] == [
        [[0.0, 1.0], [341 / 1023, 682 / 1023]],
        [[1.0, 0.0]],  # the third coordinate of the chunk has no partner
    ]


def test_grounding_of_a_phrase_that_begins_with_the_cut_space_stays_inside():
    encode = tokenizer().encode
    thinking = (7, *encode(" cat "), 5, 5, 9)
    found = output(
        QueryRequest(question="?", reasoning=True), thinking_tokens=thinking, coords=(1, 2)
    )["reasoning"]
    assert found["text"] == "cat"
    assert (found["grounding"][0]["start_idx"], found["grounding"][0]["end_idx"]) == (0, 3)


# Targets


def wire_of_target(request: Any, target: Any) -> WireTrace:
    return SKILLS[Skill(request.skill)].wire_from_target(request, target, micro_language())


def test_a_target_of_boxes_is_three_tokens_a_box_in_the_order_given():
    boxes = (
        Box(x_min=0.5, y_min=0.0, x_max=1.0, y_max=0.5),
        Box(x_min=0.2, y_min=0.2, x_max=0.2, y_max=0.7),
    )
    wire = wire_of_target(DETECT, DetectTarget(boxes=boxes))
    assert wire.answer_tokens == (5, 5, 6) * 2
    # 0.75 * 1023 = 767.25, 0.25 * 1023 = 255.75, 0.2 -> 204.6, 0.45 -> 460.35; size 0.5 -> 921
    assert wire.coords == (767, 256, 205, 460)
    assert wire.sizes == ((921, 921), (0, 921))
    assert wire.is_stopped


def test_a_box_among_point_targets_stands_for_its_centre_unless_there_are_points():
    box = Box(x_min=0.0, y_min=0.5, x_max=1.0, y_max=1.0)
    assert wire_of_target(POINT, PointTarget(boxes=(box,))).coords == (512, 767)
    both = PointTarget(points=(Point(x=0.0, y=1.0),), boxes=(box,))
    assert wire_of_target(POINT, both).coords == (0, 1023)


@pytest.mark.parametrize(
    ("request_", "target"),
    [
        (DETECT, DetectTarget(boxes=())),
        (POINT, PointTarget(points=())),
        (QueryRequest(question="?"), QueryTarget(answer="")),
    ],
    ids=["detect", "point", "query"],
)
def test_an_empty_target_is_the_end_token_alone(request_, target):
    wire = wire_of_target(request_, target)
    actions = from_wire(wire, grammar(request_), is_reasoning=False, language=micro_language())
    assert actions is not None
    assert [action.token for action in actions] == [0]


def test_a_grounded_thought_is_written_as_phrase_and_points_between_marks():
    encode = tokenizer().encode
    reasoning = Reasoning(
        text="a cat here",
        grounding=(Grounding(start_idx=2, end_idx=5, points=((0.0, 1.0), (0.5, 0.5))),),
    )
    request = QueryRequest(question="?", reasoning=True)
    wire = wire_of_target(request, QueryTarget(answer="yes", reasoning=reasoning))
    assert list(wire.thinking_tokens) == [
        *encode("a "), 7, *encode("cat"), 5, 5, 5, 5, 9, *encode(" here"),
    ]  # fmt: skip
    assert wire.coords == (0, 1023, 512, 512)
    assert wire.has_answer_separator
    drawn = output(request, **{**vars(wire)})
    assert drawn["reasoning"]["text"] == "a cat here"
    assert drawn["reasoning"]["grounding"] == [
        {"start_idx": 2, "end_idx": 5, "points": [[0.0, 1.0], [512 / 1023, 512 / 1023]]}
    ]


# Wire lists


def test_the_first_answer_mark_alone_separates_thought_and_answer():
    actions = [Action(token=token, mask=Mask()) for token in (100, 3, 101, 3, 102, 0)]
    wire = to_wire(actions, is_reasoning=True, language=micro_language())
    assert wire == WireTrace(
        thinking_tokens=(100,), has_answer_separator=True, answer_tokens=(101, 3, 102)
    )
    plain = to_wire(actions, is_reasoning=False, language=micro_language())
    assert plain == WireTrace(answer_tokens=(100, 3, 101, 3, 102))


@pytest.mark.parametrize(
    "wire",
    [
        {"answer_tokens": (5, 5), "coords": (1, 2)},  # half a box
        {"answer_tokens": (5, 5, 6), "coords": (1, 2)},  # a size without bins
        {"answer_tokens": (5, 5, 6), "coords": (1,), "sizes": ((1, 2),)},
        {"answer_tokens": (5, 5, 6), "coords": (1, 2, 3), "sizes": ((1, 2),)},  # one too many
        {"answer_tokens": (5, 5, 6), "coords": (1, 2), "sizes": ((1, 2), (3, 4))},
        {"answer_tokens": (5, 6, 5), "coords": (1, 2), "sizes": ((1, 2),)},  # out of order
        {"answer_tokens": (100,)},
        {"answer_tokens": (0,)},
        {"thinking_tokens": (100,), "has_answer_separator": True},
    ],
    ids=str,
)
def test_lists_that_do_not_fit_are_not_replayed(wire):
    replayed = from_wire(
        WireTrace(**wire), grammar(DETECT), is_reasoning=False, language=micro_language()
    )
    assert replayed is None


@pytest.mark.parametrize(
    "wire",
    [
        {"thinking_tokens": (100, 3), "has_answer_separator": True},  # a mark within the thought
        {"answer_tokens": (100,)},  # an answer without the mark before it
        {"thinking_tokens": (100,), "answer_tokens": (0,), "has_answer_separator": True},
    ],
    ids=str,
)
def test_reasoning_that_does_not_fit_is_not_replayed(wire):
    request = QueryRequest(question="?", reasoning=True)
    replayed = from_wire(
        WireTrace(**wire), grammar(request), is_reasoning=True, language=micro_language()
    )
    assert replayed is None


# Rewards and loose ends


def test_rewards_are_those_of_the_geometry():
    box = Box(x_min=0.0, y_min=0.0, x_max=0.5, y_max=0.5)
    found = {"objects": [vars(box)]}
    detect, point = SKILLS[Skill.DETECT], SKILLS[Skill.POINT]
    assert detect.reward(found, GroundTruth(boxes=(box, box))) == 0.5
    points = {"points": [{"x": 0.6, "y": 0.5}]}
    assert point.reward(points, GroundTruth(boxes=(box,))) == 0.0
    assert point.reward(points, GroundTruth(points=(Point(x=0.5, y=0.5),))) == pytest.approx(0.6)
    assert point.reward({"points": []}, GroundTruth(points=())) == 1.0


@pytest.mark.parametrize("skill", [Skill.QUERY, Skill.CAPTION])
def test_text_has_no_reward(skill):
    with pytest.raises(ValueError, match="ground truth"):
        SKILLS[skill].reward({"answer": ""}, GroundTruth(points=()))


@pytest.mark.parametrize(("given", "read"), [(0.5, 0.5), (1, 1.0), (-0.01, 0.0), (1.005, 1.0)])
def test_a_coordinate_slightly_outside_is_moved_to_the_edge(given, read):
    assert read_coordinate(given) == read


@pytest.mark.parametrize("given", [None, "0.5", True, [0.5], 1.02, -0.5, 640, 10**400,
                                   float("nan"), float("inf")], ids=str)  # fmt: skip
def test_what_is_no_coordinate_is_an_error(given):
    with pytest.raises((TypeError, ValueError)):
        read_coordinate(given)


def test_every_coordinate_bin_survives_the_way_through_the_output():
    language = micro_language()
    for first in range(1024):
        wire = WireTrace(answer_tokens=(5, 5), coords=(first, 1023 - first))
        again = SKILLS[Skill.POINT].wire_from_output(POINT, output(POINT, **vars(wire)), language)
        assert again == wire


def test_decoded_values_are_rounded_only_when_a_config_says_so():
    exact = micro_language()
    rounding = replace(exact, rounding=torch.bfloat16)
    wire = WireTrace(answer_tokens=(5, 5), coords=(511, 1022))
    request = PointRequest(object="x", image=0)
    ((one,), (other,)) = (
        SKILLS[Skill.POINT].output(request, wire, language)["points"]
        for language in (exact, rounding)
    )
    assert one == {"x": 511 / 1023, "y": 1022 / 1023}
    assert other == {"x": float(torch.tensor(511 / 1023).bfloat16()), "y": 1.0}
    assert rounding.size(900) == float(torch.tensor(exact.size(900)).bfloat16())


SEGMENT = SegmentRequest(object="cat", image=0, spatial_refs=((0.25, 0.5),))


def words(text: str) -> list[int]:
    """One token a word, as the model writes paths."""
    return [token for word in text.split() for token in tokenizer().encode(word)]


def test_the_prompt_of_segment_has_references_and_no_space_before_the_object():
    template = micro_language(THIRD).ids.templates.segment
    assert ids(prompt(SEGMENT, THIRD)) == [
        *template.prefix, 5, 5, *tokenizer().encode("cat"), *template.suffix,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("M 0 7 L 9 - 3 Z", "M 0 0.007 L 0.009 -0.003 Z"),
        ("- 0", "0"),
        ("- - 6", "-0.006"),
        ("- Z 6", "Z -0.006"),
        ("", ""),
    ],
)
def test_a_path_is_scaled_and_signed_token_by_token(text, path):
    assert path_of([9, 5, *words(text), 3], micro_language(THIRD)) == path


def test_the_numbers_of_a_path_end_at_960_and_have_three_decimals():
    language = replace(micro_language(THIRD), tokenizer=_Words())
    assert path_of([21 + 960, 21 + 480, 21 + 1, 21 + 100], language) == "1 0.5 0.001 0.104"


class _Words:
    """A tokenizer in which every id above 20 is a number."""

    def decode(self, tokens: list[int]) -> str:
        return f" {tokens[0] - 21}"


def test_an_outline_needs_a_whole_box():
    skill, language = SKILLS[Skill.SEGMENT], micro_language(THIRD)
    path = tuple(words("M 1 2"))
    nothing = {"path": "", "bbox": None}
    for wire in (
        WireTrace(answer_tokens=path),
        WireTrace(answer_tokens=(5, 6, *path), coords=(512,), sizes=((800, 800),)),
        WireTrace(answer_tokens=(5, 5, *path), coords=(512, 512)),
    ):
        assert skill.output(SEGMENT, wire, language) == nothing
    whole = WireTrace(answer_tokens=(5, 5, 6, *path), coords=(0, 1023), sizes=((921, 921),))
    bbox = skill.output(SEGMENT, whole, language)["bbox"]
    assert (bbox["x_min"], bbox["y_max"]) == (0.0, 1.0)
    assert bbox["x_max"] == pytest.approx(0.25051, abs=1e-5)
