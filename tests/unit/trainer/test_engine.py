"""The verbs of the engine on a micro model: what they answer, write, remember and refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from contract import durable
from contract.engine import Answer, MakeRollouts, StepTrained, TrainStep
from contract.errors import RequestRefused, StorageFull
from contract.groups import Group, RLGroup, SFTGroup, TrainOptions
from contract.skills import (
    Box,
    CaptionRequest,
    DetectTarget,
    FinishReason,
    GroundTruth,
    QueryRequest,
    QueryTarget,
    ReturnedRollout,
    Settings,
    TunableRequest,
)
from tests.micro import (
    DETECT,
    NUM_IMAGE_TOKENS,
    POINT,
    QUERY,
    REASONING,
    REQUESTS,
    adapter_ref,
    features_of,
    language_of,
    loaded_micro,
    micro_model,
    pictures,
    returned,
)
from tests.reference.trainer.naive import Naive
from trainer import sampler as sampler_module
from trainer.adapters.lora import Adapter, adapter_shapes
from trainer.canary import sing
from trainer.engine import TrainerEngine
from trainer.loading import LoadedModel
from trainer.model.tokenizer import Tokenizer
from trainer.skills import SKILLS
from trainer.storage import read_tensors, write_tensors

GREEDY = Settings(temperature=0.0, max_tokens=6, max_objects=2)
WARM = Settings(temperature=1.0, max_tokens=8, max_objects=3)


@pytest.fixture
def engine() -> TrainerEngine:
    return TrainerEngine(loaded_micro())


def make(engine: TrainerEngine, request: TunableRequest, **changed):
    arguments = {
        "adapter": adapter_ref(step=4),
        "request": request,
        "settings": WARM,
        "num_rollouts": 4,
        "seed": 17,
    }
    return engine.make_rollouts(MakeRollouts(**{**arguments, **changed}), pictures())


def step_command(directory: Path, groups: list[Group], number: int = 0, **changed) -> TrainStep:
    arguments = {
        "adapter": adapter_ref(),
        "optimizer": None,
        "groups": tuple(groups),
        "lr": 1e-2,
        "options": TrainOptions(),
        "weights_path": str(directory / f"weights-{number}"),
        "optimizer_path": str(directory / f"optimizer-{number}"),
    }
    return TrainStep(**{**arguments, **changed})


def groups_of(engine: TrainerEngine) -> list[Group]:
    made = {r: make(engine, r).rollouts for r in (DETECT, QUERY, REASONING)}
    rewards = (0.0, 1.0, 0.5, 0.25)
    rl = [
        RLGroup(request=r, rollouts=tuple(map(returned, rollouts)), rewards=rewards)
        for r, rollouts in made.items()
    ]
    box = Box(x_min=0.1, y_min=0.1, x_max=0.5, y_max=0.9)
    sft = SFTGroup(request=DETECT, targets=(DetectTarget(boxes=(box,)),))
    return [*rl, sft]


# Rollouts and answers


@pytest.mark.parametrize("name", REQUESTS)
def test_as_many_rollouts_as_were_asked_for_of_the_step_that_was_asked(engine, name):
    made = make(engine, REQUESTS[name], num_rollouts=5)
    assert len(made.rollouts) == 5
    assert {r.policy_step for r in made.rollouts} == {4}
    assert made.rewards is None
    assert made == make(engine, REQUESTS[name], num_rollouts=5)
    few = make(engine, REQUESTS[name], num_rollouts=2).rollouts
    # another batch size rounds the log-probabilities differently, and changes nothing else
    assert [replace(r, logprobs={}) for r in few] == [
        replace(r, logprobs={}) for r in made.rollouts[:2]
    ]


def test_greedy_rollouts_are_equal_and_count_their_tokens_as_answers_do(engine):
    made = make(engine, QUERY, settings=GREEDY, num_rollouts=3)
    assert made.rollouts[0] == made.rollouts[1] == made.rollouts[2]
    answered = engine.answer(
        Answer(adapter=adapter_ref(step=4), request=QUERY, settings=GREEDY, seed=1), pictures()
    )
    assert made.input_tokens == answered.input_tokens
    assert made.output_tokens == 3 * answered.output_tokens


def test_rewards_are_those_of_each_output(engine):
    truth = GroundTruth(boxes=())
    made = make(engine, DETECT, ground_truth=truth, num_rollouts=12)
    assert made.rewards is not None
    assert set(made.rewards) == {0.0, 1.0}
    for rollout, reward in zip(made.rollouts, made.rewards, strict=True):
        assert reward == float(not rollout.output["objects"])


@pytest.mark.parametrize(
    "request_", [*REQUESTS.values(), CaptionRequest(image=0, length="short")], ids=lambda r: r.skill
)
def test_an_answer_has_the_output_of_its_skill_and_counts_its_tokens(engine, request_):
    answered = engine.answer(
        Answer(adapter=None, request=request_, settings=GREEDY, seed=1), pictures()
    )
    keys = {"query": "answer", "point": "points", "detect": "objects", "caption": "caption"}
    assert keys[request_.skill] in answered.output
    prompt = SKILLS[request_.skill].prompt(request_, language_of(micro_model()))
    image = 0 if request_.image is None else NUM_IMAGE_TOKENS
    assert answered.input_tokens == 1 + image + len(prompt)
    assert answered.output_tokens >= 1
    if answered.finish_reason is FinishReason.LENGTH:
        assert answered.output_tokens == (4 if request_.skill == "point" else 6)
    assert min(answered.prefill_time_ms, answered.decode_time_ms, answered.ttft_ms) >= 0.0


def test_an_answer_comes_from_the_adapter_that_is_named(engine, tmp_path):
    trained = engine.train_step(step_command(tmp_path, groups_of(engine), lr=0.5), pictures())
    command = Answer(adapter=None, request=DETECT, settings=GREEDY, seed=1)
    base = engine.answer(command, pictures())
    fresh = engine.answer(replace(command, adapter=adapter_ref()), pictures())
    tuned = engine.answer(
        replace(command, adapter=adapter_ref(step=1, weights=trained.weights)), pictures()
    )
    assert base.output == fresh.output != tuned.output


@pytest.mark.parametrize(("request_", "field"), [(QUERY, "question"), (DETECT, "object")])
def test_a_prompt_that_leaves_no_room_is_refused_by_field(request_, field, engine):
    long = replace(request_, **{field: "very " * 200})
    with pytest.raises(RequestRefused, match="128 positions") as refused:
        make(engine, long)
    assert refused.value.loc == ("request", field)
    with pytest.raises(RequestRefused) as refused:
        engine.answer(Answer(adapter=None, request=long, settings=GREEDY, seed=1), pictures())
    assert refused.value.loc == (field,), "the bodies of inference have no `request` around them"


def test_warming_up_needs_nothing(engine):
    assert sing(engine) == sing(engine)


def test_pictures_are_encoded_once(engine, monkeypatch):
    encoded: list[int] = []
    real = type(micro_model().vision).encode_images

    def counted(self, images):
        encoded.append(len(images))
        return real(self, images)

    monkeypatch.setattr(type(micro_model().vision), "encode_images", counted)
    for request in (DETECT, POINT, DETECT):
        make(engine, request)
    assert encoded == [1, 1]


# Training


def test_a_step_writes_what_it_says_and_continues_from_it(engine, tmp_path):
    groups = groups_of(engine)
    first = engine.train_step(step_command(tmp_path, groups), pictures())
    assert first.applied
    assert first.skip_reason is None
    assert first.weights is not None
    assert first.optimizer is not None
    model = micro_model(dtype=torch.float32)
    tensors = read_tensors(first.weights)
    assert {n: tuple(t.shape) for n, t in tensors.items()} == adapter_shapes(model.config.text, 8)
    fresh = Adapter.fresh(model.config.text, 8, seed=3)
    assert any(not torch.equal(tensors[n], fresh.tensors[n]) for n in tensors)
    metadata = safetensors.safe_open(first.weights.path, framework="pt").metadata()
    assert json.loads(metadata["moontune"]) == {"finetune_id": "F" * 26, "rank": "8"}

    ref = adapter_ref(step=1, weights=first.weights)
    command = step_command(tmp_path, groups, 1, adapter=ref, optimizer=first.optimizer)
    second = engine.train_step(command, pictures())
    assert second.optimizer is not None
    assert int(read_tensors(second.optimizer)["num_updates"]) == 2
    # a worker that has to read the files goes on bit for bit
    other = TrainerEngine(loaded_micro()).train_step(
        replace(command, weights_path=str(tmp_path / "w"), optimizer_path=str(tmp_path / "o")),
        pictures(),
    )
    assert other.weights is not None
    assert second.weights is not None
    assert other.weights.digest == second.weights.digest
    assert other.optimizer is not None
    assert other.optimizer.digest == second.optimizer.digest


def test_ten_steps_give_the_same_bits_twice(tmp_path):
    digests: list[str] = []
    for run in ("a", "b"):
        engine = TrainerEngine(loaded_micro())
        ref, optimizer = adapter_ref(), None
        for number in range(10):
            made = make(engine, DETECT, adapter=ref, seed=number, num_rollouts=4).rollouts
            group = RLGroup(
                request=DETECT,
                rollouts=tuple(map(returned, made)),
                rewards=tuple(float(len(r.coords)) for r in made),
            )
            sft = SFTGroup(request=QUERY, targets=(QueryTarget(answer=f"{number} of them"),))
            command = step_command(
                tmp_path / run, [group, sft], number, adapter=ref, optimizer=optimizer
            )
            done = engine.train_step(command, pictures())
            assert done.weights is not None
            ref, optimizer = adapter_ref(step=number + 1, weights=done.weights), done.optimizer
        assert ref.weights is not None
        digests.append(ref.weights.digest)
    assert digests[0] == digests[1]


def test_training_on_a_target_makes_it_likely(engine, tmp_path):
    group = SFTGroup(request=QUERY, targets=(QueryTarget(answer="two circles"),))
    ref, optimizer, losses = adapter_ref(), None, []
    for number in range(12):
        done = engine.train_step(
            step_command(tmp_path, [group], number, adapter=ref, optimizer=optimizer), pictures()
        )
        losses.append(done.sft_loss)
        ref, optimizer = adapter_ref(step=number + 1, weights=done.weights), done.optimizer
    assert losses[-1] < 0.5 * losses[0]


def assert_plain(step: StepTrained) -> None:
    """Everything that becomes JSON is finite."""
    numbers = [step.kl, step.router_kl, step.grad_norm, step.reward_mean, step.sft_loss]
    numbers += [v for v in step.extra.values() if isinstance(v, float)]
    assert all(value is None or math.isfinite(value) for value in numbers)


def test_the_metrics_of_a_mixed_step(engine, tmp_path):
    groups = groups_of(engine)
    old = replace(groups[0], rollouts=tuple(
        replace(r, policy_step=step)
        for r, step in zip(groups[0].rollouts, (3, 1, None, 10**400), strict=True)
    ))  # fmt: skip
    flat = replace(groups[1], rewards=(0.5,) * 4)
    command = step_command(tmp_path, [old, flat, groups[2], groups[3]], adapter=adapter_ref(step=5))
    step = engine.train_step(command, pictures())
    assert_plain(step)
    # group means 0.4375, 0.5, 0.4375; all twelve rewards: mean 0.4583, squares add up to 3.625
    assert step.reward_mean == pytest.approx((0.4375 + 0.5 + 0.4375) / 3)
    assert step.reward_std == pytest.approx(math.sqrt(3.625 / 12 - (5.5 / 12) ** 2))
    assert step.extra["reward_by_skill"] == {"detect": 0.4375, "query": 0.46875}
    # known steps: 3 and 1, and 4 for the two query groups: lags 2, 4 and eight times 1
    assert step.extra["policy_lag"] == pytest.approx((2 + 4 + 8 * 1) / 10)
    assert step.extra["groups_skipped"] == 1
    assert step.extra["logprob_gap_max"] < 1e-4
    assert step.extra["clip_fraction"] == 0.0
    assert step.extra["lr"] == 1e-2
    assert step.extra["warnings"] == []
    assert step.kl is not None
    assert step.kl >= 0.0
    assert step.router_kl is not None
    assert step.sft_loss is not None


def test_without_groups_of_a_mode_its_numbers_are_absent(engine, tmp_path):
    rl, sft = groups_of(engine)[0], groups_of(engine)[-1]
    only_sft = engine.train_step(step_command(tmp_path, [sft], 1), pictures())
    assert (only_sft.kl, only_sft.reward_mean, only_sft.reward_std) == (None, None, None)
    assert only_sft.sft_loss is not None
    only_rl = engine.train_step(step_command(tmp_path, [rl], 2), pictures())
    assert only_rl.sft_loss is None
    assert only_rl.kl is not None
    dense = TrainerEngine(loaded_micro("moondream2"))
    assert dense.train_step(step_command(tmp_path, [sft], 3), pictures()).router_kl is None


@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_fresh_rollouts_have_an_importance_ratio_of_one(tmp_path, family, dtype, gap):
    engine = TrainerEngine(loaded_micro(family, dtype))
    first = engine.train_step(step_command(tmp_path, groups_of(engine), lr=0.05), pictures())
    ref = adapter_ref(step=1, weights=first.weights)
    groups = [
        RLGroup(
            request=request,
            rollouts=tuple(map(returned, make(engine, request, adapter=ref).rollouts)),
            rewards=(0.0, 1.0, 0.5, 0.25),
        )
        for request in REQUESTS.values()
    ]
    step = engine.train_step(step_command(tmp_path, groups, 1, adapter=ref), pictures())
    assert step.extra["ratio_mean"] == pytest.approx(1.0, abs=gap)
    assert 1.0 <= step.extra["ratio_max"] <= 1.0 + gap
    assert step.extra["logprob_gap_max"] <= gap
    assert step.extra["rollouts_dropped"] == 0
    assert step.extra["clip_fraction"] == 0.0
    # How much a dtype rounds depends on the machine; that a gap is not hidden does not.
    apart = [replace(group, rollouts=tuple(map(less_likely, group.rollouts))) for group in groups]
    told = engine.train_step(step_command(tmp_path, apart, 2, adapter=ref), pictures())
    assert told.extra["logprob_gap_mean"] >= 0.03125 - gap


def less_likely(rollout: ReturnedRollout) -> ReturnedRollout:
    """As if every draw had been less likely by 2 ** -5 when it was sampled."""

    def lower(value: Any) -> Any:
        if isinstance(value, list):
            return [lower(part) for part in value]
        return value - 0.03125 if isinstance(value, float) else value

    assert rollout.logprobs is not None
    return replace(rollout, logprobs={name: lower(v) for name, v in rollout.logprobs.items()})


def test_rollouts_that_are_left_out_are_counted_and_leave_no_signal(engine, tmp_path):
    rl = groups_of(engine)[:3]
    trained = engine.train_step(step_command(tmp_path, rl, lr=0.05), pictures())
    strict = step_command(
        tmp_path, rl, 1,
        adapter=adapter_ref(step=1, weights=trained.weights),
        options=TrainOptions(drop_gap=1e-4),
    )  # fmt: skip
    step = engine.train_step(strict, pictures())
    assert (step.applied, step.skip_reason) == (False, "no_signal")
    assert step.extra["rollouts_dropped"] == 12


def test_a_step_tells_what_it_shared_and_took(engine, tmp_path):
    # BOS, 16 of the picture and the prompt: once for two targets, of which the second feeds three
    request = replace(REQUESTS["query-image"], question="what?")
    prompt = len(SKILLS["query"].prompt(request, language_of(micro_model())))
    words = language_of(micro_model()).tokenizer
    fed = len(words.encode("two red circles"))
    group = SFTGroup(
        request=request,
        targets=(QueryTarget(answer=""), QueryTarget(answer="two red circles")),
    )
    step = engine.train_step(step_command(tmp_path, [group, group]), pictures())
    prefix = 1 + NUM_IMAGE_TOKENS + prompt
    assert step.extra["positions_computed"] == prefix + fed
    assert step.extra["positions_saved"] == 4 * prefix + 2 * fed - (prefix + fed)
    assert step.extra["num_tokens"] == 2 * (1 + fed + 1)
    assert step.extra["peak_memory_bytes"] > 0
    assert step.extra["tokens_per_second"] > 0.0
    assert step.extra["entropy"] is None


def test_the_entropy_of_saying_nothing_is_that_of_the_first_draw(engine, tmp_path):
    nothing = ReturnedRollout(answer_tokens=(), output={"objects": []}, finish_reason=None)
    group = RLGroup(request=DETECT, rollouts=(nothing,) * 4, rewards=(0.0, 1.0, 0.5, 0.25))
    step = engine.train_step(step_command(tmp_path, [group]), pictures())
    # a fresh adapter answers like the base model; the end or a box: at most that of a coin
    base = Naive(micro_model(), None, features_of(micro_model()))
    (expected,) = base.entropy(DETECT, [(0, ())])
    assert 0.0 < expected <= math.log(2)
    assert step.extra["entropy"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("huge", [1.7e308, -1.7e308])
def test_rewards_of_any_size_have_a_mean(engine, tmp_path, huge):
    group = groups_of(engine)[0]
    step = engine.train_step(
        step_command(tmp_path, [replace(group, rewards=(huge, huge, huge, 0.0))]), pictures()
    )
    assert step.reward_mean == pytest.approx(0.75 * huge)
    assert_plain(step)


@pytest.mark.parametrize(
    ("lr", "rewards", "reason"),
    [(0.0, (0.0, 1.0, 0.0, 1.0), "zero_lr"), (1e-2, (0.5,) * 4, "no_signal")],
)
def test_a_skipped_step_says_why_and_writes_nothing(engine, tmp_path, lr, rewards, reason):
    group = replace(groups_of(engine)[0], rewards=rewards)
    step = engine.train_step(step_command(tmp_path, [group], lr=lr), pictures())
    assert (step.applied, step.skip_reason) == (False, reason)
    assert (step.weights, step.optimizer) == (None, None)
    assert list(tmp_path.iterdir()) == []
    assert step.reward_mean is not None


def test_a_step_that_is_not_finite_says_so_and_writes_nothing(engine, tmp_path):
    tensors = Adapter.fresh(micro_model().config.text, 8, seed=1).tensors
    tensors["text_lora.dense.0.down_b"][3, 2] = math.nan
    weights = write_tensors(tmp_path / "poisoned", tensors, {})
    step = engine.train_step(
        step_command(tmp_path, groups_of(engine), adapter=adapter_ref(weights=weights)), pictures()
    )
    assert (step.applied, step.skip_reason) == (False, "non_finite")
    assert step.grad_norm is None
    assert_plain(step)
    assert [path.name for path in tmp_path.iterdir()] == ["poisoned"]


def test_a_refused_step_writes_nothing_and_the_next_one_works(engine, tmp_path):
    groups = groups_of(engine)
    bad = replace(groups[0], rollouts=(replace(groups[0].rollouts[0], coords=(5000,)),) * 4)
    with pytest.raises(RequestRefused) as refused:
        engine.train_step(step_command(tmp_path, [groups[1], bad]), pictures())
    assert refused.value.loc == ("groups", 1, "rollouts", 0, "coords", 0)
    assert list(tmp_path.iterdir()) == []
    assert engine.train_step(step_command(tmp_path, groups), pictures()).applied


def test_a_target_with_the_name_of_a_special_token_is_refused(tmp_path):
    plain = loaded_micro()
    words = Tokenizer(plain.language.tokenizer._tokenizer.from_str(
        plain.language.tokenizer._tokenizer.to_str()
    ))  # fmt: skip
    words._tokenizer.add_special_tokens(["<|endoftext|>"])
    assert words.encode("<|endoftext|>") == [0]
    loaded = LoadedModel(
        model=plain.model, language=replace(plain.language, tokenizer=words), info=plain.info
    )
    good = SFTGroup(request=QUERY, targets=(QueryTarget(answer="two"),))
    bad = SFTGroup(request=QUERY, targets=(QueryTarget(answer="two<|endoftext|>"),))
    with pytest.raises(RequestRefused, match="special token") as refused:
        TrainerEngine(loaded).train_step(step_command(tmp_path, [good, bad]), pictures())
    assert refused.value.loc == ("groups", 1, "target")


# Both files, then the directory.
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_disk_leaves_no_file_and_the_same_call_succeeds_later(
    engine, tmp_path, monkeypatch, number
):
    durable.make_directory(tmp_path)
    groups, calls = groups_of(engine), iter(range(1, 100))
    real = durable.os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == number:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(durable.os, "fsync", fsync)
    command = step_command(tmp_path, groups)
    with pytest.raises(StorageFull):
        engine.train_step(command, pictures())
    assert list(tmp_path.iterdir()) == []
    assert engine.train_step(command, pictures()).applied


def test_a_dropped_finetune_starts_from_what_the_command_says(engine, tmp_path):
    trained = engine.train_step(step_command(tmp_path, groups_of(engine)), pictures())
    before = make(engine, QUERY, adapter=adapter_ref(step=1, weights=trained.weights))
    engine.drop("F" * 26)
    assert make(engine, QUERY, adapter=adapter_ref(step=1, weights=trained.weights)) == before


def test_the_micro_batch_budget_changes_no_metric(tmp_path):
    steps = []
    for number, budget in enumerate((32, 10**6)):
        engine = TrainerEngine(loaded_micro(), micro_batch_tokens=budget)
        steps.append(
            engine.train_step(step_command(tmp_path, groups_of(engine), number), pictures())
        )
    for name in ("router_kl", "grad_norm", "sft_loss"):
        assert getattr(steps[0], name) == pytest.approx(getattr(steps[1], name), rel=1e-6)


def test_room_for_an_answer_is_room_for_a_box_and_its_end():
    assert sampler_module.LEAST_ROOM == 4


def test_a_question_may_fill_the_context_up_to_that_room():
    model = micro_model()
    num_words = 128 - sampler_module.LEAST_ROOM - len(
        SKILLS["query"].prompt(QueryRequest(question=""), language_of(model))
    )  # fmt: skip
    engine = TrainerEngine(loaded_micro())
    # one more word leaves three positions, BOS counted
    fits, too_long = "a" + " a" * (num_words - 2), "a" + " a" * (num_words - 1)
    assert len(language_of(model).tokenizer.encode(fits)) == num_words - 1
    make(engine, QueryRequest(question=fits))
    with pytest.raises(RequestRefused):
        make(engine, QueryRequest(question=too_long))
