"""Whole answers of the trainer against a twin written from model-facts.md alone.

The oracle holds no reasoning, no grounding, no coordinates inside of text and few answers that end
by themselves. Here the rows of its heads that belong to special ids are drawn anew, so that greedy
answers are full of those ids; the twin (`naive_moondream`) says what is right. It holds no outlines
either: for them the language head is solved for, so that a planned answer is the greedy one.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from contract.engine import AdapterRef, Answer, MakeRollouts
from contract.skills import (
    DetectRequest,
    Pixels,
    PointRequest,
    QueryRequest,
    Rollout,
    SegmentRequest,
    Settings,
    TunableRequest,
)
from tests.reference.model.naive_moondream import (
    ANSWER,
    COORD,
    END,
    GROUND_END,
    GROUND_START,
    SIZE,
    Item,
    NaiveAnswer,
    NaiveDraw,
    NaiveMoondream,
)
from trainer.engine import TrainerEngine
from trainer.loading import LoadedModel, load
from trainer.skills.segment import path_of

ORACLE = Path(__file__).parent.parent / "oracle"
FAMILIES = ("moondream2", "moondream3")
PICTURES = ("0_378x378.png", "3_60x44.png")
GREEDY = Settings(temperature=0.0, max_tokens=20, max_objects=3)

FLOAT32_LOGPROB = 1e-5
FLOAT32_RELATIVE = 1e-5
LEAST_MARGIN = 0.01  # below it the best two logits are too close to call

# A special row is normal with this deviation, its bias uniform in its range: then special and
# ordinary ids win about equally often.
ROW_DEVIATION = 0.45
BIASES = {END: (-2, 2), ANSWER: (-1, 3), COORD: (2, 5), SIZE: (-2, 2)} | dict.fromkeys(
    (GROUND_START, GROUND_END), (0, 3)
)

WITHOUT_PICTURE: list[TunableRequest] = [
    QueryRequest(question="what color is the car?", reasoning=True),
    QueryRequest(question="How many people are there?", reasoning=True),
    QueryRequest(question="the red button", reasoning=True),
    QueryRequest(question="what color is the car?"),
]
REFS = ((0.25, 0.5), (0.1, 0.2, 0.5, 0.8))
# One per variant: they take long.
WITH_PICTURE: list[TunableRequest] = [
    QueryRequest(question="the red button?", image=1, reasoning=True),
    QueryRequest(question="what color is the car?", image=0, reasoning=True, spatial_refs=REFS),
    QueryRequest(question="How many people are there?", image=1, reasoning=True, spatial_refs=REFS),
    QueryRequest(question="How many?", image=1, spatial_refs=REFS),
    *(PointRequest(object=o, image=i) for o in ("car", "the red button") for i in (0, 1)),
    PointRequest(object="vehicles", image=1, spatial_refs=REFS),
    *(DetectRequest(object=o, image=i) for o in ("car", "the red button") for i in (0, 1)),
    DetectRequest(object="vehicles", image=1),
]

# The oracle's tokenizer leaves 136 of the model's 512 ids without a word: here they are numbers,
# and every third of them is a "-" with its own number of spaces.
MORE_WORDS = [
    " " * (1 + i // 3) + "-" if i % 3 == 1 else str(100 + 10 * i) for i in range(512 - 376)
]
SPECIAL_WORDS = {"<end>": END, "<coord>": COORD, "<size>": SIZE, "<answer>": ANSWER}
SEGMENT_BUDGET = 12
PLANNED_LOGIT = 8.0  # of the planned token; all others have 0
BOX = "<coord> <coord> <size>"
# By name: references, a planned answer, and its path; None where there is no box.
SEGMENTS: dict[str, tuple[tuple[tuple[float, ...], ...], str, str | None]] = {
    "end at the budget": ((), f"{BOX} M 0 730 l - 480 960 z <end>", "M 0 0.76 l -0.5 1 z"),
    "end before the budget": (REFS, f"{BOX} M 5 - 0 <end>", "M 0.005 0"),
    "no end": (REFS, f"{BOX} M 1 1 - l 1450 1450 - z", "M 0.001 0.001 l -1.51 1.51 z"),
    "two boxes": (REFS[:1], f"{BOX} M 240 <size> <coord> <coord> 360 l <end>", "M 0.25 0.375 l"),
    "path around its box": ((), "M - <size> l <coord> 480 m <coord> 960 <end>", "M l -0.5 m 1"),
    "reserved ids in a path": ((), f"{BOX} ! 1 <answer> + 2 , <end>", "0.001 0.002 ,"),
    "box, no path": ((), f"{BOX} <end>", ""),
    "no size": ((), "<coord> <coord> M 0 480 <coord> <end>", None),
    "one coordinate": (REFS, "M <size> <coord> 480 480 <size> <end>", None),
    "no box": ((), "M 0 480 - 480 0 z <end>", None),
    "nothing": (REFS, "<end>", None),
}


def write_variant(family: str, seed: int, directory: Path) -> None:
    """The oracle's checkpoint with other rows for the special ids."""
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(ORACLE / family / name, directory)
    weights = load_file(ORACLE / family / "model.safetensors")
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for token, (low, high) in BIASES.items():
        row = ROW_DEVIATION * torch.randn(weights["model.text.wte"].shape[1], generator=generator)
        weights["model.text.lm_head.weight"][token] = row
        weights["model.text.lm_head.bias"][token] = chance.uniform(low, high)
    save_file(weights, directory / "model.safetensors")


def tokenizer_with_numbers() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(ORACLE / "moondream3" / "tokenizer.json"))
    assert tokenizer.add_tokens(MORE_WORDS) == len(MORE_WORDS)
    return tokenizer


def tokens_of(words: Sequence[str]) -> list[int]:
    """One token each; a word that the tokenizer cuts is a mistake in the test."""
    tokenizer = tokenizer_with_numbers()
    ids = [[SPECIAL_WORDS[w]] if w in SPECIAL_WORDS else tokenizer.encode(w).ids for w in words]
    assert all(len(each) == 1 for each in ids)
    return [token for (token,) in ids]


def write_planned(
    prompt: list[Item], tokens: Sequence[int], seed: int, directory: Path
) -> list[Item]:
    """Moondream 3 with a language head that makes `tokens` the greedy answer to a prompt.

    The states that they are drawn from do not depend on that head. The region heads are drawn anew,
    with a liking for large boxes: some reach over the edge.

    Returns:
        The prompt, and what of the answer is fed next.
    """
    weights = load_file(ORACLE / "moondream3" / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for kind in ("coord", "size"):
        name = f"model.region.{kind}_decoder.weight"
        weights[name] = 0.3 * torch.randn(weights[name].shape, generator=generator)
    weights["model.region.size_decoder.bias"] = torch.linspace(0, 8, 1024).repeat(2)
    shutil.copy(ORACLE / "moondream3" / "config.json", directory)
    tokenizer_with_numbers().save(str(directory / "tokenizer.json"))
    save_file(weights, directory / "model.safetensors")

    twin, items, states = NaiveMoondream(directory), list(prompt), []
    for place, token in enumerate(tokens):
        twin.foresee([*items, *takewhile(lambda t: t not in (COORD, SIZE), tokens[place:])])
        hidden = twin.hidden(items)
        states.append(twin.layer_norm("text.post_ln", hidden))
        bins = tuple(int(logits.argmax()) for logits in twin.bin_logits(hidden, token))
        items.append(NaiveDraw(token, bins, 0.0, ()).item)
    wanted_NV = torch.zeros(len(tokens), 512, dtype=torch.float64)
    wanted_NV[torch.arange(len(tokens)), torch.tensor(tokens)] = PLANNED_LOGIT
    head_DV = torch.linalg.pinv(torch.stack(states)) @ wanted_NV
    weights["model.text.lm_head.weight"] = head_DV.T.float().contiguous()
    weights["model.text.lm_head.bias"].zero_()
    save_file(weights, directory / "model.safetensors")
    return items


@cache
def features(family: str) -> list[torch.Tensor]:
    expected = load_file(ORACLE / family / "expected.safetensors")
    return [expected[f"image.{name[0]}.features"] for name in PICTURES]


@cache
def pixels(family: str) -> list[Pixels]:
    found = []
    for name in PICTURES:
        path = ORACLE / family / "images" / name
        rgb = np.asarray(Image.open(path).convert("RGB"))
        digest = sha256(path.read_bytes()).hexdigest()
        found.append(
            Pixels(height=rgb.shape[0], width=rgb.shape[1], digest=digest, data=rgb.tobytes())
        )
    return found


def twin_answer(
    twin: NaiveMoondream, family: str, request: TunableRequest, guess: Rollout
) -> NaiveAnswer:
    """What the twin answers; where it draws what `guess` says, it has foreseen its states."""
    asked = request.question if request.skill == "query" else request.object
    prompt = twin.prompt(
        request.skill,
        asked,
        image_PD=None if request.image is None else features(family)[request.image],
        refs=getattr(request, "spatial_refs", ()),
        reasoning=getattr(request, "reasoning", False),
    )
    twin.foresee([*prompt, *items_of(guess)])
    if request.skill == "query":
        return twin.query(prompt, reasoning=request.reasoning, max_tokens=GREEDY.max_tokens)
    return twin.objects(prompt, skill=request.skill, max_objects=GREEDY.max_objects)


def items_of(rollout: Rollout) -> Iterator[Item]:
    """What is fed next of its draws, in order."""
    coords, sizes = iter(rollout.coords), iter(rollout.sizes)
    separator = (ANSWER,) * rollout.has_answer_separator
    for token in (*rollout.thinking_tokens, *separator, *rollout.answer_tokens):
        bins = (next(coords),) if token == COORD else next(sizes) if token == SIZE else ()
        yield NaiveDraw(token, bins, 0.0, ()).item


# One process makes the variants of a family.
of_each_family = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.xdist_group(f"rule-{f}")) for f in FAMILIES]
)
PlannedSegment = tuple[Path, SegmentRequest, NaiveAnswer]
Answers = list[tuple[TunableRequest, Rollout, NaiveAnswer]]
Variant = Callable[[str, int], tuple[TrainerEngine, Answers]]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """Engine of a variant, and what it and the twin answer to every request; made once."""

    @cache
    def make(family: str, seed: int) -> tuple[TrainerEngine, Answers]:
        directory = tmp_path_factory.mktemp(f"{family}-{seed}")
        write_variant(family, seed, directory)
        engine = TrainerEngine(load(directory, name=family, device="cpu", dtype="float32"))
        twin, answers = NaiveMoondream(directory), []
        for request in (*WITHOUT_PICTURE, WITH_PICTURE[seed]):
            rollout = rollout_of(engine, family, request)
            answers.append((request, rollout, twin_answer(twin, family, request, rollout)))
        return engine, answers

    return make


def rollout_of(engine: TrainerEngine, family: str, request: TunableRequest) -> Rollout:
    adapter = AdapterRef(finetune_id="F" * 26, step=0, rank=8, seed=3, weights=None)
    made = engine.make_rollouts(
        MakeRollouts(adapter=adapter, request=request, settings=GREEDY, num_rollouts=1, seed=1),
        pixels(family),
    )
    return made.rollouts[0]


@of_each_family
@pytest.mark.parametrize("case_id", ["3.detect.18", "1.query.9", "2.point.17", "text.query"])
def test_the_twin_agrees_with_the_oracle(family, case_id):
    """By the written rule: the twin itself, where the oracle knows the answer."""
    cases = json.loads((ORACLE / family / "cases.json").read_text())["cases"]
    (case,) = (case for case in cases if case["id"] == case_id)
    expected = load_file(ORACLE / family / "expected.safetensors")
    twin = NaiveMoondream(ORACLE / family)
    prompt = twin.prompt(
        case["skill"],
        case["argument"],
        image_PD=expected[f"image.{case_id[0]}.features"] if case["image"] else None,
        refs=case["spatial_refs"] or (),
    )
    hidden = twin.hidden(prompt)
    for name, got in (("hidden", hidden), ("logits", twin.token_logits(hidden))):
        wanted = expected[f"{case_id}.first_{name}"]
        assert (got - wanted).norm() / wanted.norm() < FLOAT32_RELATIVE
    if case["skill"] == "query":
        answer = twin.query(prompt, reasoning=False, max_tokens=12)
        assert [draw.token for draw in answer.answer] == case["token_ids"]
        assert answer.output == {"answer": case["output"]["answer"].strip()}
    else:
        answer = twin.objects(prompt, skill=case["skill"], max_objects=3)
        assert [b for draw in answer.answer for b in draw.bins] == list(chain(*case["bins"]))
        (got,), (wanted,) = answer.output.values(), case["output"].values()
        assert [pytest.approx(found, abs=1e-6) for found in got] == wanted
    assert answer.finish_reason == case["finish_reason"]
    assert answer.margin == pytest.approx(case["min_margin"], abs=1e-3)


@pytest.mark.parametrize("guessed", [0, 2, 6])
@pytest.mark.parametrize("with_picture", [False, True])
@of_each_family
def test_a_guess_changes_no_answer(family, with_picture, guessed):
    """By the written rule: the twin draws the same, be a guess right, right so far, or wrong."""
    twin = NaiveMoondream(ORACLE / family)
    image_PD = features(family)[1] if with_picture else None
    prompt = twin.prompt("detect", "car", image_PD=image_PD, refs=REFS)

    def answer() -> NaiveAnswer:
        return twin.objects(prompt, skill="detect", max_objects=2)

    alone = answer()
    right = [draw.item for draw in alone.draws[:guessed]]
    twin.foresee([*prompt, *right, *((draw.token + 1) % 512 for draw in alone.draws[guessed:])])
    helped = answer()
    assert helped.output == alone.output
    assert [(d.token, d.bins) for d in helped.draws] == [(d.token, d.bins) for d in alone.draws]
    for got, wanted in zip(helped.draws, alone.draws, strict=True):
        assert (got.logprob, *got.bin_logprobs) == pytest.approx(
            (wanted.logprob, *wanted.bin_logprobs), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(len(WITH_PICTURE)))
@of_each_family
def test_answers_by_the_written_rule(family, seed, variant):
    """By the written rule: tokens, bins and outputs equal, log-probabilities to 1e-5."""
    engine, answers = variant(family, seed)
    for request, rollout, wanted in answers:
        if wanted.margin < LEAST_MARGIN:
            continue
        assert_rollout_is(rollout, wanted)
        answered = engine.answer(
            Answer(adapter=None, request=request, settings=GREEDY, seed=1), pixels(family)
        )
        assert answered.output == wanted.output
        assert answered.finish_reason == wanted.finish_reason
        assert answered.output_tokens == len(wanted.draws)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PlannedSegment]:
    """A planned segment by its name; made once."""

    @cache
    def make(name: str) -> PlannedSegment:
        directory = tmp_path_factory.mktemp("segment")
        seed = 20 + list(SEGMENTS).index(name)
        refs, words, _ = SEGMENTS[name]
        request = SegmentRequest(object="red button", image=seed % 2, spatial_refs=refs)
        image_PD = features("moondream3")[request.image]
        prompt = NaiveMoondream(ORACLE / "moondream3").prompt(
            "segment", request.object, image_PD=image_PD, refs=refs
        )
        items = write_planned(prompt, tokens_of(words.split()), seed, directory)
        twin = NaiveMoondream(directory)
        twin.foresee(items)
        return directory, request, twin.segment(prompt, max_tokens=SEGMENT_BUDGET)

    return make


@pytest.mark.xdist_group("rule-segment")
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_by_the_written_rule(name, segment):
    """By the written rule: path and box equal, tokens as many."""
    directory, request, wanted = segment(name)
    answered = TrainerEngine(load_third(directory)).answer(
        Answer(
            adapter=None,
            request=request,
            settings=Settings(temperature=0.0, max_tokens=SEGMENT_BUDGET),
            seed=1,
        ),
        pixels("moondream3"),
    )
    assert answered.output == wanted.output
    assert answered.finish_reason == wanted.finish_reason
    assert answered.output_tokens == len(wanted.draws)


@pytest.mark.xdist_group("rule-segment")
def test_the_segments_are_the_planned_ones(segment):
    """By the written rule: the twin's paths are those written out, and boxes of all kinds occur."""
    met: Counter[str] = Counter()
    for name, (_, words, path) in SEGMENTS.items():
        _, request, wanted = segment(name)
        assert [draw.token for draw in wanted.draws] == tokens_of(words.split())
        assert wanted.margin > LEAST_MARGIN
        assert wanted.output["path"] == (path or "")
        box = wanted.output["bbox"]
        assert (box is None) == (path is None)
        if box is not None:
            met["with references" if request.spatial_refs else "without"] += 1
            met["cut at the edge" if {0.0, 1.0} & set(box.values()) else "whole"] += 1
        met[wanted.finish_reason] += 1
    assert set(met) == {"with references", "without", "cut at the edge", "whole", "stop", "length"}


@pytest.mark.parametrize("seed", range(4))
def test_any_path_by_the_written_rule(seed, tmp_path):
    """By the written rule: any tokens in any order, most of them numbers and minus signs."""
    write_planned([END], [END], 0, tmp_path)
    twin, language = NaiveMoondream(tmp_path), load_third(tmp_path).language
    chance = random.Random(seed)
    pools = [range(512), range(376, 512), tokens_of(list("-0123456789"))]
    for _ in range(20):
        tokens = [chance.choice(chance.choice(pools)) for _ in range(50)]
        assert path_of(tokens, language) == twin.path(tokens)


def load_third(directory: Path) -> LoadedModel:
    return load(directory, name="moondream3", device="cpu", dtype="float32")


def assert_rollout_is(rollout: Rollout, wanted: NaiveAnswer) -> None:
    is_stopped = wanted.finish_reason == "stop"
    assert rollout.thinking_tokens == tuple(draw.token for draw in wanted.thinking)
    assert rollout.has_answer_separator == wanted.has_separator
    assert rollout.answer_tokens == tuple(draw.token for draw in wanted.answer)
    assert rollout.finish_reason == wanted.finish_reason
    assert rollout.coords == tuple(b for (b,) in wanted.bins(COORD))
    assert rollout.sizes == tuple(wanted.bins(SIZE))
    assert rollout.output == wanted.output

    logprobs: dict[str, Any] = rollout.logprobs
    got = [*logprobs["thinking"], *[logprobs["separator"]] * wanted.has_separator]
    got += [*logprobs["answer"], *[logprobs["stop"]] * is_stopped]
    assert got == pytest.approx([draw.logprob for draw in wanted.draws], abs=FLOAT32_LOGPROB)
    for name, token in (("coords", COORD), ("sizes", SIZE)):
        got = np.ravel(logprobs[name])
        wanted_bins = [lp for d in wanted.draws if d.token == token for lp in d.bin_logprobs]
        assert got == pytest.approx(wanted_bins, abs=FLOAT32_LOGPROB)


@of_each_family
def test_the_variants_reach_what_the_oracle_does_not_hold(family, variant):
    """By the written rule: each rule is met by answers that are compared, most of all answers."""
    met: Counter[str] = Counter()
    for seed in range(len(WITH_PICTURE)):
        for request, _, wanted in variant(family, seed)[1]:
            met["answers"] += 1
            if wanted.margin < LEAST_MARGIN:
                continue
            met["compared"] += 1
            met.update(features_of(request, wanted))
    assert met["compared"] > 0.7 * met["answers"]
    wanted_features = {
        "grounding", "two points in a chunk", "chunks without points", "unpaired coordinate",
        "answer after reasoning", "limit before the answer", "coordinate in an answer",
        "size in an answer", "stop: query", "stop: point", "stop: detect", "length: query",
        "length: point", "length: detect", "objects, then the end", "references and reasoning",
    }  # fmt: skip
    wanted_features |= {"mask turned a draw"} if family == "moondream2" else {"end in reasoning"}
    assert wanted_features <= {name for name, count in met.items() if count}


def features_of(request: TunableRequest, wanted: NaiveAnswer) -> Iterator[str]:
    yield f"{wanted.finish_reason}: {request.skill}"
    tokens = [draw.token for draw in wanted.answer]
    if request.skill != "query":
        if wanted.finish_reason == "stop" and tokens:
            yield "objects, then the end"
        return
    if COORD in tokens:
        yield "coordinate in an answer"
    if SIZE in tokens:
        yield "size in an answer"
    if wanted.num_turned:
        yield "mask turned a draw"
    if not request.reasoning:
        return
    grounding = wanted.output["reasoning"]["grounding"]
    num_points = sum(len(span["points"]) for span in grounding)
    thinking = [draw.token for draw in wanted.thinking]
    if grounding:
        yield "grounding"
    if any(len(span["points"]) > 1 for span in grounding):
        yield "two points in a chunk"
    if {GROUND_START, GROUND_END} & set(thinking) and not grounding:
        yield "chunks without points"
    if thinking.count(COORD) > 2 * num_points:
        yield "unpaired coordinate"
    if wanted.has_separator and tokens:
        yield "answer after reasoning"
    if not wanted.has_separator:
        yield "end in reasoning" if wanted.finish_reason == "stop" else "limit before the answer"
    if request.spatial_refs:
        yield "references and reasoning"
