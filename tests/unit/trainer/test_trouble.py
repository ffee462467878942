"""What fails: it hits its own call, the others get what they get alone, and nothing stays held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from contract.engine import AdapterRef, ExportCheckpoint, MakeRollouts, TrainStep
from contract.errors import EngineFailed, RequestRefused
from contract.groups import SFTGroup
from contract.skills import QueryTarget
from tests.micro import (
    DETECT,
    QUERY,
    QUERY_WITH_IMAGE,
    adapter_ref,
    loaded_micro,
    pictures,
    random_adapter,
    train_command,
)
from tests.unit.trainer.engines import (
    ALWAYS,
    AMPLE,
    LONG,
    SMALL,
    WARM,
    Fault,
    answer,
    ask,
    assert_holds_nothing,
    begin,
    finish,
    rollouts,
    settle,
    turns,
)
from trainer import decoder as decoder_module
from trainer import engine as engine_module
from trainer import prefill as prefill_module
from trainer import sampler as sampler_module
from trainer import train_step as train_step_module
from trainer.adapters import bank as bank_module
from trainer.engine import TrainerEngine
from trainer.model import decode_cache as decode_cache_module
from trainer.model import kv_blocks as kv_blocks_module
from trainer.storage import write_tensors
from trainer.train_step import Limits

PLACES = [
    (bank_module, "read_tensors"),
    (sampler_module, "prefill_together"),
    (prefill_module, "make_batch"),
    (decoder_module, "DecodeCache"),
    (decoder_module, "AdapterStack"),
    (decoder_module, "draw"),
    (decoder_module, "uploaded"),
    (decoder_module, "embed_elements"),
    (decode_cache_module, "uploaded"),
    (kv_blocks_module, "uploaded"),
]
MICRO = loaded_micro()
in_every_place = pytest.mark.parametrize(
    ("module", "name"), PLACES, ids=[f"{m.__name__.split('.')[-1]}-{n}" for m, n in PLACES]
)


def write_adapter(folder: Path, number: int) -> AdapterRef:
    """An adapter on disk, of the finetune of that number."""
    adapter = random_adapter(loaded_micro().model, seed=number)
    weights = write_tensors(folder / str(number), adapter.tensors, {})
    return adapter_ref(weights=weights, finetune_id=f"{number:026}")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[int], AdapterRef]:
    """Adapters on disk, each of a finetune of its own."""
    return lambda number: write_adapter(tmp_path, number)


def engine_of(budgets=AMPLE) -> TrainerEngine:
    return TrainerEngine(loaded_micro(), budgets=budgets)


@cache
def alone(**changed: Any) -> Any:
    """Rollouts of an engine that has nothing else to do and meets no trouble."""
    return ask(engine_of(), rollouts(**changed))


def assert_same(made: Any, expected: Any) -> None:
    """Equal in all but the last digits of log-probabilities."""
    assert [replace(r, logprobs={}) for r in made.rollouts] == [
        replace(r, logprobs={}) for r in expected.rollouts
    ]


# --- one unit fails once


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[MakeRollouts, Any]]:
    """Calls with adapters of their own, and what each gets alone."""
    folder = tmp_path_factory.mktemp("adapters")
    refs = [write_adapter(folder, number) for number in range(3)]
    # Eight blocks, of which each rollout takes two: the nine wait for room and join in ticks.
    commands = [
        rollouts(QUERY, adapter=refs[0], settings=replace(WARM, max_tokens=20), num_rollouts=9),
        rollouts(QUERY_WITH_IMAGE, adapter=refs[1], seed=2),
        rollouts(DETECT, adapter=refs[2], seed=3),
    ]
    return [(command, ask(engine_of(), command)) for command in commands]


@in_every_place
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("big"), RuntimeError("odd")], ids=repr)
def test_whatever_fails_once_costs_at_most_its_own_call(
    monkeypatch, three, module, name, number, error
):
    commands, expected = zip(*three, strict=True)
    engine = engine_of(SMALL)
    fault = Fault(error, calls=(number,))
    fault.put_into(monkeypatch, module, name)
    first = begin(engine, commands[0])
    for _ in range(2):
        engine.turn()  # the first may have failed by now
    futures = [first, *(begin(engine, command) for command in commands[1:])]
    settle(engine, *futures)
    assert fault.num_failed == 1
    failed = [future for future in futures if future.exception() is not None]
    for future in failed:
        assert future.exception() is error
    # a call that was alone in its unit is told; one that lacked memory is tried once more
    assert len(failed) <= (0 if isinstance(error, torch.OutOfMemoryError) else 1)
    for future, theirs in zip(futures, expected, strict=True):
        if future not in failed:
            assert_same(future.result(), theirs)
    assert_same(ask(engine, commands[0]), expected[0])


@in_every_place
def test_a_lost_device_leaves_the_loop_wherever_it_shows(monkeypatch, saved, module, name):
    engine = engine_of(SMALL)
    fault = Fault(torch.AcceleratorError("device-side assert"), calls=(1,))
    fault.put_into(monkeypatch, module, name)
    futures = [begin(engine, rollouts(adapter=saved(n), num_rollouts=9)) for n in range(2)]
    with pytest.raises(torch.AcceleratorError):
        settle(engine, *futures)


# --- adapters


@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "damaged"])
def test_an_adapter_whose_file_cannot_be_read_fails_its_own_call_alone(saved, is_missing):
    engine, bad = engine_of(), saved(0)
    assert bad.weights is not None
    path = Path(bad.weights.path)
    if is_missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    futures = [
        begin(engine, command)
        for command in (rollouts(QUERY), rollouts(QUERY, adapter=bad), rollouts(QUERY, seed=2))
    ]
    settle(engine, *futures)
    assert isinstance(futures[1].exception(), EngineFailed)
    assert_same(futures[0].result(), alone(request=QUERY))
    assert_same(futures[2].result(), alone(request=QUERY, seed=2))


def test_an_adapter_for_which_there_is_no_memory_fails_its_own_call_alone(monkeypatch, saved):
    engine, ref = engine_of(), saved(0)
    fault = Fault(torch.OutOfMemoryError("slot"), calls=ALWAYS)
    fault.put_into(monkeypatch, bank_module, "read_tensors")
    large, small = begin(engine, rollouts(QUERY, adapter=ref)), begin(engine, rollouts(QUERY))
    settle(engine, large, small)
    assert isinstance(large.exception(), torch.OutOfMemoryError)
    assert fault.num_failed == 2  # once with others, once alone
    assert_same(small.result(), alone(request=QUERY))


# --- stopping


class CountingCalls(TorchFunctionMode):
    """Everything that is asked of torch."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.found.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


def test_stopping_everything_asks_nothing_of_the_device(units):
    """The device has just failed; whatever is asked of it now may fail again."""
    engine = engine_of()
    for seed in range(3):
        begin(engine, rollouts(seed=seed))
    turns(engine, 3)
    assert len(set(units.ticks[-1])) == 3
    decoder = engine._sampler._decoder
    with CountingCalls() as calls:
        assert len(decoder.clear()) == 3
    assert not calls.found
    assert (decoder.num_rows, decoder._pool.num_promised, decoder._pool.num_used) == (0, 0, 0)


# --- tried again


def test_a_tick_out_of_memory_gives_up_what_can_be_computed_again(monkeypatch, units):
    engine = engine_of()
    ask(engine, answer(QUERY))  # its prompt is kept, for nobody
    ask(engine, rollouts(QUERY))  # so is an adapter
    units.prompts.clear()
    Fault(torch.OutOfMemoryError("big"), calls=(2,)).put_into(monkeypatch, decoder_module, "draw")
    futures = begin(engine, rollouts()), begin(engine, rollouts(DETECT))
    kept = []

    def note() -> None:
        kept.append([len(list(s)) for s in (engine._sampler._prefixes, engine._bank._slots)])

    settle(engine, *futures, after_each=note)
    assert [0, 0] in kept
    # two prompts at first, each once more by itself
    assert sum(map(len, units.prompts)) == 4


def test_a_call_that_is_tried_again_is_alone_until_its_end(monkeypatch, units):
    """Even an equal greedy one does not share with it, and who comes meanwhile waits."""
    engine = engine_of()
    fault = Fault(RuntimeError("odd"), calls=(3,))
    fault.put_into(monkeypatch, decoder_module, "draw")
    early = [
        rollouts(QUERY, seed=1, settings=LONG),
        rollouts(QUERY, seed=2, num_rollouts=2, settings=LONG),
        answer(QUERY, seed=3),
        answer(QUERY, seed=4),
    ]
    futures = [begin(engine, command) for command in early]
    while not fault.num_failed:
        turns(engine, 1)
    assert set(units.ticks.pop()) == {1, 2, 3}  # the fourth takes the answer of the third
    units.ticks.clear()
    futures.append(begin(engine, answer(QUERY, seed=5)))
    turns(engine, 3)
    futures.append(begin(engine, rollouts(DETECT, seed=6)))
    finish(engine, *futures)
    runs = [set(seeds) for seeds in units.ticks]
    num_alone = max(index for index, seeds in enumerate(runs) if seeds & {1, 2, 3, 4}) + 1
    assert all(len(seeds) == 1 for seeds in runs[:num_alone])
    assert set().union(*runs[:num_alone]) == {1, 2, 3, 4}
    assert set().union(*runs[num_alone:]) == {5, 6}


# --- given up


@pytest.mark.parametrize("num_turns", range(6))
def test_a_cancelled_call_gives_back_all_that_it_held(num_turns):
    engine = engine_of(SMALL)
    given_up = begin(engine, rollouts(settings=LONG, num_rollouts=5))
    mate = begin(engine, answer(QUERY))
    turns(engine, num_turns)
    engine.cancel(given_up)
    settle(engine, mate)
    assert given_up.cancelled()
    assert_holds_nothing(engine)
    assert not engine._features._prepared


def test_whatever_is_cancelled_while_it_is_tried_again_gives_back_all_that_it_held(monkeypatch):
    engine = engine_of()
    Fault(RuntimeError("odd"), calls=(2,)).put_into(monkeypatch, decoder_module, "draw")
    futures = [begin(engine, rollouts(seed=seed, settings=LONG)) for seed in range(3)]
    turns(engine, 6)
    for future in futures:
        engine.cancel(future)
    assert_holds_nothing(engine)


def test_a_call_that_fails_before_its_prompt_leaves_no_picture_cut(saved):
    engine, bad = engine_of(), saved(0)
    assert bad.weights is not None
    Path(bad.weights.path).unlink()
    settle(engine, begin(engine, rollouts(QUERY_WITH_IMAGE, adapter=bad)))
    assert not engine._features._prepared


def test_a_step_that_fails_at_a_picture_leaves_no_other_cut(tmp_path):
    engine = engine_of()
    broken = replace(pictures()[0], digest="broken", data=b"short")
    training = engine.begin("train_step", step(tmp_path), (broken, pictures()[1]))
    settle(engine, training)
    assert isinstance(training.exception(), ValueError)
    assert not engine._features._prepared


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("big"), RuntimeError("odd")], ids=repr)
def test_a_cancelled_call_that_cannot_be_taken_out_leaves_the_others_their_answers(
    monkeypatch, error
):
    engine = engine_of()
    futures = [begin(engine, rollouts(QUERY, seed=seed, settings=LONG)) for seed in range(3)]
    turns(engine, 4)
    fault = Fault(error, calls=(1,))
    fault.put_into(monkeypatch, decoder_module, "DecodeCache")
    engine.cancel(futures[0])
    assert fault.num_failed == 1
    for seed, made in enumerate(finish(engine, *futures[1:]), start=1):
        assert_same(made, alone(request=QUERY, seed=seed, settings=LONG))


def test_a_cancelled_call_that_cannot_be_taken_out_leaves_its_only_mate_an_answer(monkeypatch):
    engine = engine_of()
    given_up, mate = (begin(engine, rollouts(seed=seed, settings=LONG)) for seed in range(2))
    turns(engine, 4)
    fault = Fault(RuntimeError("odd"), calls=(1,))
    fault.put_into(monkeypatch, decoder_module, "DecodeCache")
    engine.cancel(given_up)
    (made,) = finish(engine, mate)
    assert_same(made, alone(seed=1, settings=LONG))


# --- listeners and padding


def test_a_listener_that_fails_costs_nobody_anything(units):
    def unheard(delta: object) -> None:
        raise RuntimeError("gone")

    streamed = answer(QUERY, settings=LONG, seed=2, is_streamed=True)
    engine = engine_of()
    settle(engine, begin(engine, rollouts(QUERY)), begin(engine, streamed, lambda _: None))
    expected = list(units.ticks)
    units.ticks.clear()
    engine = engine_of()
    futures = begin(engine, rollouts(QUERY)), begin(engine, streamed, unheard)
    made, answered = finish(engine, *futures)
    assert units.ticks == expected  # nothing was computed again
    assert_same(made, alone(request=QUERY))
    assert answered.output == ask(engine_of(), streamed).output


@pytest.mark.parametrize("padding", [0.0, torch.nan, torch.inf], ids=str)
def test_rows_that_fill_up_a_step_pass_nothing_on_even_if_they_are_no_numbers(padding):
    """They repeat the last row, whose adapter may have diverged; unfilled places read zeros."""
    config = MICRO.model.config.text
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    prompt = MICRO.model.text.new_cache(1, 5)
    prompt.keys_LBHSd.copy_(random(*prompt.keys_LBHSd.shape))
    prompt.values_LBHSd.copy_(random(*prompt.values_LBHSd.shape))
    prompt.advance(5)
    pool = kv_blocks_module.BlockPool(config, 8, device="cpu", dtype=torch.float32)
    long, short = (decode_cache_module.Suffix(pool, 40) for _ in range(2))
    rows = (config.n_heads, 1, config.head_dim)

    def attend(suffixes, num_padding):
        cache = decode_cache_module.DecodeCache(
            pool, [(prompt, len(suffixes))], suffixes, num_padding=num_padding
        )
        qkv = [
            torch.cat((random(len(suffixes), *rows), torch.full((num_padding, *rows), padding)))
            for _ in range(3)
        ]
        out = cache.attend(0, *qkv, mask_B1TS=None, is_causal=False)
        cache.advance(1)
        return out[: len(suffixes)]

    for _ in range(20):
        attend([long], 1)
    for _ in range(3):  # the table of the short row is filled up to the two blocks of the long one
        out_BH1d = attend([long, short], 2)
        assert out_BH1d.isfinite().all()
    assert (len(long.blocks), len(short.blocks)) == (2, 1)


# --- train steps


def step(folder: Path, **changed: Any) -> TrainStep:
    target = QueryTarget(answer="red")
    paths = {"weights_path": str(folder / "w"), "optimizer_path": str(folder / "o")}
    command = train_command([SFTGroup(request=QUERY, targets=(target,))])
    return replace(command, **{**paths, **changed})


def test_a_step_that_runs_out_of_memory_is_begun_once_more_in_smaller_parts_with_what_was_freed(
    monkeypatch, tmp_path
):
    (tmp_path / "quiet").mkdir()
    expected = engine_of().train_step(step(tmp_path / "quiet"), pictures())
    engine = engine_of()
    ask(engine, answer(QUERY))
    tried: list[Limits] = []
    real = engine_module.step_in_parts

    def noting(*args: Any, limits: Limits) -> Any:
        tried.append(limits)
        return real(*args, limits=limits)

    monkeypatch.setattr(engine_module, "step_in_parts", noting)
    fault = Fault(torch.OutOfMemoryError("caches hold it"), calls=(1,))
    fault.put_into(monkeypatch, train_step_module, "score")
    (trained,) = finish(engine, engine.begin("train_step", step(tmp_path), pictures()))
    assert trained.grad_norm == expected.grad_norm
    assert trained.weights.digest == expected.weights.digest
    assert not list(engine._sampler._prefixes)
    first, second = tried
    assert first.kept_bytes
    assert second == Limits(max_positions=first.max_positions // 2, kept_bytes=0)


def test_a_step_that_does_not_fit_in_the_smallest_parts_is_told_so_and_the_next_one_runs(
    monkeypatch, tmp_path
):
    engine = engine_of()
    fault = Fault(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 MiB."), calls=(1, 2)
    )
    fault.put_into(monkeypatch, train_step_module, "score")
    bad, good = (engine.begin("train_step", step(tmp_path), pictures()) for _ in range(2))
    settle(engine, bad, good)
    refused = bad.exception()
    assert isinstance(refused, RequestRefused)
    assert refused.code == "batch_too_large"
    assert refused.loc == ("groups", 0, "target")
    assert "Group 0" in refused.message
    assert str(3 << 19) in refused.message
    assert "are free" in refused.message
    assert len(refused.message) <= 300
    assert good.result().applied


def test_a_device_lost_in_a_train_step_leaves_the_loop(monkeypatch, tmp_path):
    engine = engine_of()
    fault = Fault(torch.AcceleratorError("lost"), calls=(1,))
    fault.put_into(monkeypatch, train_step_module, "score")
    engine.begin("train_step", step(tmp_path), pictures())
    with pytest.raises(torch.AcceleratorError):
        turns(engine, 20)


def test_a_device_lost_in_a_verb_that_runs_at_once_leaves_its_beginning(monkeypatch, saved):
    engine, ref = engine_of(), saved(0)
    fault = Fault(torch.AcceleratorError("lost"), calls=(1,))
    fault.put_into(monkeypatch, bank_module, "read_tensors")
    with pytest.raises(torch.AcceleratorError):
        engine.begin("export_checkpoint", ExportCheckpoint(adapter=ref, path="/nonexistent"), ())
