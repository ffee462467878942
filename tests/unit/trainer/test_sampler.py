"""The sampler through the engine: what is shared, what waits, what fails alone, what streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from contract.engine import AnswerDelta
from contract.errors import RequestRefused
from contract.skills import (
    CaptionRequest,
    ChatRequest,
    ChatTurn,
    QueryRequest,
    SegmentRequest,
    Settings,
)
from tests.micro import (
    CHAT,
    DETECT,
    QUERY,
    QUERY_WITH_IMAGE,
    REASONING,
    adapter_ref,
    loaded_micro,
    pictures,
    random_adapter,
)
from tests.unit.trainer.engines import (
    GREEDY,
    SMALL,
    WARM,
    answer,
    assert_holds_nothing,
    begin,
    counted,
    finish,
    rollouts,
    settle,
)
from trainer import decoder as decoder_module
from trainer import sampler as sampler_module
from trainer.engine import TrainerEngine
from trainer.storage import write_tensors


@pytest.fixture
def engine() -> Iterator[TrainerEngine]:
    """One that holds nothing any more when the test has ended."""
    engine = TrainerEngine(loaded_micro())
    yield engine
    assert_holds_nothing(engine)


@pytest.fixture
def rows_of_ticks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows every tick draws for."""
    found: list[int] = []
    real = decoder_module.draw

    def counting(model, rollouts, hidden_ND):
        found.append(len(rollouts))
        real(model, rollouts, hidden_ND)

    monkeypatch.setattr(decoder_module, "draw", counting)
    return found


def test_calls_of_all_finetunes_and_skills_share_their_ticks(engine, rows_of_ticks, tmp_path):
    model = loaded_micro().model
    weights = write_tensors(tmp_path / "w", random_adapter(model, seed=2).tensors, {})
    other = adapter_ref(weights=weights, finetune_id="G" * 26)
    commands = [rollouts(), rollouts(DETECT, adapter=other), answer(QUERY, settings=WARM)]
    finish(engine, *[begin(engine, command) for command in commands])
    assert max(rows_of_ticks) == 3 + 3 + 1


def test_equal_greedy_calls_have_one_computation(engine, rows_of_ticks):
    alone = engine.answer(answer(), pictures())
    rows_of_ticks.clear()
    first = begin(engine, answer(seed=1))
    for _ in range(2):  # the prompt and one token
        engine.turn()
    others = [begin(engine, answer(seed=seed)) for seed in (2, 3)]
    results = finish(engine, first, *others)
    assert {str(result.output) for result in results} == {str(alone.output)}
    assert set(rows_of_ticks) == {1}
    assert counted(engine)["moontune_shared_answers_total",] == 2


def test_greedy_calls_that_differ_in_anything_are_computed_apart(engine, tmp_path):
    weights = write_tensors(
        tmp_path / "w", random_adapter(loaded_micro().model, seed=2).tensors, {}
    )
    commands = [
        answer(),
        answer(settings=replace(GREEDY, max_tokens=2)),
        answer(replace(QUERY_WITH_IMAGE, image=1)),
        answer(adapter=adapter_ref(weights=weights)),
        answer(REASONING),
        answer(DETECT),
    ]
    together = finish(engine, *[begin(engine, command) for command in commands])
    assert ("moontune_shared_answers_total",) not in counted(engine)
    for command, result in zip(commands, together, strict=True):
        assert result.output == engine.answer(command, pictures()).output


def test_a_picture_is_encoded_once_for_all_calls_and_prompts(engine, monkeypatch):
    encoded: list[int] = []
    real = type(engine._model.vision).encode_images

    def counting(self, images):
        encoded.append(len(images))
        return real(self, images)

    monkeypatch.setattr(type(engine._model.vision), "encode_images", counting)
    questions = [replace(QUERY_WITH_IMAGE, question=f"is it {word}?") for word in ("red", "blue")]
    finish(engine, *[begin(engine, rollouts(q)) for q in questions], begin(engine, answer()))
    engine.answer(answer(replace(QUERY_WITH_IMAGE, question="how many?")), pictures())
    assert encoded == [1]


def test_rollouts_that_do_not_fit_together_follow_one_another(rows_of_ticks):
    small = TrainerEngine(loaded_micro(), budgets=SMALL)
    # Eight blocks; each rollout may take two: four at a time.
    command = rollouts(settings=replace(WARM, max_tokens=20), num_rollouts=9)
    (made,) = finish(small, begin(small, command))
    assert max(rows_of_ticks) == 4
    assert [r.answer_tokens for r in made.rollouts] == [
        r.answer_tokens
        for r in TrainerEngine(loaded_micro()).make_rollouts(command, pictures()).rollouts
    ]


def test_a_request_that_waits_for_memory_is_not_overtaken(monkeypatch):
    small = TrainerEngine(loaded_micro(), budgets=replace(SMALL, num_slots=1))
    order: list[int] = []
    real = sampler_module.prefill_together

    def noting(model, adapters, rows, features):
        order.append(len(rows[0].prompt))
        return real(model, adapters, rows, features)

    monkeypatch.setattr(sampler_module, "prefill_together", noting)
    long = Settings(temperature=1.0, max_tokens=60)
    first = begin(small, rollouts(QUERY, settings=long, num_rollouts=1))
    small.turn()
    other = adapter_ref(seed=9, finetune_id="G" * 26)
    blocked = begin(small, rollouts(QueryRequest(question="a a"), adapter=other, num_rollouts=1))
    small.turn()
    later = [
        begin(small, answer(QueryRequest(question="a a a a"), settings=WARM)),
        begin(small, rollouts(QueryRequest(question="a a a"), num_rollouts=1)),
    ]
    assert not first.done()
    finish(small, first, blocked, *later)
    assert order[1] == min(order)  # the shortest prompt is that of the one that was blocked


def test_one_request_that_cannot_be_computed_leaves_the_others_their_answers(engine, monkeypatch):
    expected = engine.make_rollouts(rollouts(), pictures())
    real = decoder_module.draw

    def failing(model, rollouts, hidden_ND):
        if any(rollout.seed == 666 for rollout in rollouts):
            raise RuntimeError("device-side assert")
        real(model, rollouts, hidden_ND)

    monkeypatch.setattr(decoder_module, "draw", failing)
    good = [begin(engine, rollouts()), begin(engine, rollouts(seed=2))]
    bad = begin(engine, rollouts(seed=666))
    settle(engine, *good, bad)
    with pytest.raises(RuntimeError, match="device-side"):
        bad.result()
    assert good[0].result() == expected
    assert len(good[1].result().rollouts) == 3
    assert counted(engine)["moontune_kv_blocks", "promised"] == 0


def test_a_tick_out_of_memory_gives_up_what_is_kept_and_goes_on(engine, monkeypatch):
    expected = engine.make_rollouts(rollouts(), pictures())
    real, failures = decoder_module.draw, [torch.OutOfMemoryError("big")]

    def failing(model, rollouts, hidden_ND):
        if failures:
            raise failures.pop()
        real(model, rollouts, hidden_ND)

    monkeypatch.setattr(decoder_module, "draw", failing)
    assert engine.make_rollouts(rollouts(), pictures()) == expected
    failures += [torch.OutOfMemoryError("big")] * 2
    with pytest.raises(torch.OutOfMemoryError):
        engine.make_rollouts(rollouts(), pictures())
    assert engine.make_rollouts(rollouts(), pictures()) == expected


def test_a_cancelled_call_leaves_at_once_and_takes_nothing_with_it(engine):
    running = begin(engine, answer(settings=Settings(temperature=1.0, max_tokens=60)))
    mate = begin(engine, rollouts())
    waiting = begin(engine, answer(QUERY))
    for _ in range(2):
        engine.turn()
    engine.cancel(running)
    engine.cancel(waiting)
    assert running.cancelled()
    assert waiting.cancelled()
    (made,) = finish(engine, mate)
    assert made == TrainerEngine(loaded_micro()).make_rollouts(rollouts(), pictures())
    assert not engine.turn()
    assert counted(engine)["moontune_kv_blocks", "promised"] == 0


def test_a_cancelled_twin_leaves_the_shared_answer_to_the_other(engine):
    expected = engine.answer(answer(), pictures()).output
    first, second = begin(engine, answer()), begin(engine, answer())
    for _ in range(3):
        engine.turn()
    engine.cancel(first)
    assert finish(engine, second)[0].output == expected


STREAMED = {
    "query": QUERY,
    "query-image": QUERY_WITH_IMAGE,
    "query-reasoning": REASONING,
    "chat": CHAT,
    "chat-reasoning": replace(CHAT, reasoning=True),
}


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_chunks_of_a_stream_are_the_answer(engine, name, temperature, seed):
    deltas: list[AnswerDelta] = []
    settings = Settings(temperature=temperature, max_tokens=30)
    command = answer(STREAMED[name], settings=settings, seed=seed, is_streamed=True)
    (result,) = finish(engine, begin(engine, command, deltas.append))
    assert "".join(delta.text for delta in deltas) == result.output["answer"]
    thought = result.output.get("reasoning", {"text": ""})["text"]
    assert "".join(delta.reasoning for delta in deltas) == thought
    assert all(bool(delta.text) != bool(delta.reasoning) for delta in deltas)
    assert all(delta.bbox is None for delta in deltas)
    whole = [delta for delta in deltas if delta.text]
    assert deltas == [delta for delta in deltas if delta.reasoning] + whole  # the thought is first


def test_a_conversation_of_one_turn_is_a_query_and_shares_its_prompt(engine):
    asked = answer(QUERY_WITH_IMAGE, settings=WARM, seed=5)
    turn = ChatTurn(text=QUERY_WITH_IMAGE.question, images=(0,))
    chat = replace(asked, request=ChatRequest(turns=(turn,)))
    expected, got = finish(engine, begin(engine, asked), begin(engine, chat))
    assert got.output == expected.output
    assert got.input_tokens == expected.input_tokens
    assert counted(engine)["moontune_cache_misses_total", "prefixes"] == 1


def test_conversations_beside_others_answer_as_alone(engine):
    """A prompt with pictures inside goes through the model by itself, and grows with all others."""
    requests = [CHAT, QUERY_WITH_IMAGE, replace(CHAT, reasoning=True), DETECT, CHAT]
    commands = [answer(r, settings=WARM, seed=i) for i, r in enumerate(requests)]
    together = finish(engine, *(begin(engine, command) for command in commands))
    for command, got in zip(commands, together, strict=True):
        alone = TrainerEngine(loaded_micro()).answer(command, pictures())
        assert (got.output, got.input_tokens) == (alone.output, alone.input_tokens)


def test_a_conversation_without_room_is_refused_at_its_messages(engine):
    many = ChatTurn(text="what?", images=(0, 1) * 4)  # 8 pictures of 16 positions; there are 128
    future = begin(engine, answer(ChatRequest(turns=(many,))))
    with pytest.raises(RequestRefused, match="0 of 128 positions") as refused:
        future.result()
    assert refused.value.loc == ("messages",)


def test_captions_and_segments_stream_and_boxes_do_not(engine):
    for request, field in (
        (CaptionRequest(image=0, length="short"), "caption"),
        (SegmentRequest(object="red circle", image=0), "path"),
    ):
        deltas: list[AnswerDelta] = []
        command = answer(
            request, settings=Settings(temperature=1.0, max_tokens=40), is_streamed=True, seed=3
        )
        (result,) = finish(engine, begin(engine, command, deltas.append))
        assert "".join(delta.text for delta in deltas) == result.output[field]
        boxes = [delta.bbox for delta in deltas if delta.bbox is not None]
        assert boxes == ([result.output["bbox"]] if result.output.get("bbox") else [])
    told: list[AnswerDelta] = []
    finish(engine, begin(engine, answer(DETECT, is_streamed=True), told.append))
    assert not told


def test_a_prompt_without_room_is_refused_where_it_stands(engine):
    future = begin(engine, rollouts(QueryRequest(question="why " * 200)))
    with pytest.raises(RequestRefused, match="positions") as refused:
        future.result()
    assert refused.value.loc == ("request", "question")
    assert not engine.turn()


def test_what_happened_is_counted(engine):
    engine.make_rollouts(rollouts(DETECT), pictures())
    engine.answer(answer(), pictures())
    found = counted(engine)
    assert found["moontune_sampled_tokens_total", "rollouts", "F" * 26] >= 3
    assert found["moontune_sampled_tokens_total", "inference", "base"] >= 1
    assert found["moontune_cache_misses_total", "prefixes"] == 2
    assert found["moontune_time_to_first_token_seconds", "rollouts"] == 1
    assert found["moontune_admission_seconds", "inference"] == 1
    assert found["moontune_decode_rows",] == found["moontune_decode_ticks_total",]
    assert found["moontune_device_seconds_total", "rollouts"] > 0
    assert found["moontune_rows_running",] == 0
