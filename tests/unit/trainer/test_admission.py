"""Who may begin: what waits for memory, what may pass it, and how much is computed together."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import replace

import pytest

from contract.engine import Answer
from contract.skills import QueryRequest, Settings
from contract.work import WorkClass
from tests.micro import QUERY, adapter_ref, loaded_micro, random_adapter
from tests.unit.trainer.engines import (
    AMPLE,
    GREEDY,
    LONG,
    SMALL,
    WARM,
    answer,
    ask,
    begin,
    counted,
    finish,
    rollouts,
    turns,
)
from trainer import decoder as decoder_module
from trainer import loop as loop_module
from trainer import sampler as sampler_module
from trainer.adapters.bank import TENSOR_BYTES
from trainer.adapters.stack import AdapterStack
from trainer.engine import TrainerEngine
from trainer.memory import kv_bytes_per_position
from trainer.prefill import Prefix
from trainer.sampler import BATCH_PROMPTS, MAX_AHEAD, PROMPTS_IN_A_ROW

MICRO = loaded_micro()
OTHER = adapter_ref(seed=9, finetune_id="G" * 26)


def engine_of(budgets=AMPLE) -> TrainerEngine:
    return TrainerEngine(MICRO, budgets=budgets)


def asked(number: int, length: int = 1) -> QueryRequest:
    """Questions that differ, all of one length."""
    return QueryRequest(question="a" * length + chr(ord("a") + number))


def num_joining(engine: TrainerEngine) -> int:
    return engine._sampler._decoder.num_joining


def num_growing(engine: TrainerEngine, kind: WorkClass) -> int:
    return sum(job.wanted.work_class is kind for job in engine._sampler._growing.values())


# --- prompts


def test_prompts_go_together_up_to_a_number_of_positions_with_those_that_fill_them_up(units):
    engine = engine_of(replace(AMPLE, max_prefill_positions=300))
    requests = [QueryRequest(question="b " * 55), *(asked(n, length=n) for n in range(1, 16))]
    finish(engine, *[begin(engine, rollouts(r, num_rollouts=1)) for r in requests])
    assert sum(map(len, units.prompts)) == 16
    assert max(map(len, units.prompts)) > 5
    assert max(len(lengths) * max(lengths) for lengths in units.prompts) <= 300


def test_prompts_in_use_never_take_more_than_their_budget(monkeypatch, units):
    # The smallest budget: one prompt of 128 positions, or some shorter ones.
    positions = MICRO.model.config.text.max_context
    engine = engine_of(replace(AMPLE, prefix_bytes=0))
    dtype = MICRO.model.text.wte.dtype
    budget = positions * kv_bytes_per_position(MICRO.model.config, dtype)
    alive: weakref.WeakSet[Prefix] = weakref.WeakSet()
    real = sampler_module.prefill_together

    def noting(*args):
        found = real(*args)
        alive.update(found)
        return found

    monkeypatch.setattr(sampler_module, "prefill_together", noting)
    futures = [begin(engine, rollouts(asked(n, length=16), settings=LONG)) for n in range(16)]
    taken: list[int] = []
    finish(
        engine,
        *futures,
        after_each=lambda: taken.append(sum(prefix.num_bytes for prefix in alive)),
    )
    assert max(map(sum, units.prompts)) <= positions
    assert budget // 2 < max(taken) <= budget
    assert counted(engine)["moontune_cache_bytes", "prefixes"] <= budget


def test_an_answer_that_grows_has_a_token_after_a_few_passes_over_prompts(units):
    engine = engine_of(replace(AMPLE, max_prefill_positions=1))
    futures = [begin(engine, answer(asked(n), settings=LONG)) for n in range(15)]
    finish(engine, *futures)
    runs = [len(list(g)) for what, g in itertools.groupby(units.order) if what == "prompts"]
    assert runs[0] == max(runs) == PROMPTS_IN_A_ROW
    assert sum(runs) == 15


def test_rollouts_grow_after_all_prompts_that_have_room_so_that_they_share_their_ticks(units):
    engine = engine_of(replace(AMPLE, max_prefill_positions=1))
    futures = [begin(engine, rollouts(asked(n), settings=LONG)) for n in range(15)]
    finish(engine, *futures)
    runs = [(what, len(list(g))) for what, g in itertools.groupby(units.order)]
    assert runs[0] == ("prompts", 15)
    assert len(runs) == 2


# --- rollouts that wait for room


SHORT = Settings(temperature=1.0, max_tokens=16)
"""One block."""

CROWD = rollouts(QUERY, settings=replace(WARM, max_tokens=30), num_rollouts=16)


def crowded(num_blocks: int = 9) -> TrainerEngine:
    """A call of sixteen rollouts grows by four, of two blocks each; one block is left over."""
    engine = engine_of(replace(AMPLE, num_blocks=num_blocks))
    begin(engine, CROWD)
    turns(engine, 1)
    assert num_joining(engine) == 1
    return engine


def test_a_short_answer_passes_a_call_that_waits_for_room():
    engine = crowded()
    short = begin(engine, answer(QUERY, settings=replace(GREEDY, max_tokens=2)))
    num_turns = 0
    while not short.done():
        turns(engine, 1)
        num_turns += 1
    assert num_turns <= 4  # its prompt, two tokens, and one turn of somebody else
    assert num_joining(engine) == 1


def num_ahead(engine: TrainerEngine) -> int:
    """Single answers that grow while rollouts wait for room."""
    waiting = [group.request for group in engine._sampler._decoder._joining]
    if not any(request.num_rollouts > 1 for request in waiting):
        return 0
    return num_growing(engine, WorkClass.INFERENCE)


def test_answers_that_come_one_by_one_pass_rollouts_that_wait_up_to_a_number():
    engine = crowded(num_blocks=9)
    futures, seen = [], []
    for number in range(2 * MAX_AHEAD):
        futures.append(begin(engine, answer(asked(number), settings=SHORT, seed=number)))
        for _ in range(3):
            turns(engine, 1)
            seen.append(num_ahead(engine))
    finish(engine, *futures, after_each=lambda: seen.append(num_ahead(engine)))
    assert max(seen) == MAX_AHEAD


def test_answers_that_come_together_pass_rollouts_that_wait_up_to_a_number():
    engine = crowded(num_blocks=9)
    futures = [
        begin(engine, answer(asked(number), settings=SHORT, seed=number))
        for number in range(2 * MAX_AHEAD)
    ]
    seen: list[int] = []
    finish(engine, *futures, after_each=lambda: seen.append(num_ahead(engine)))
    assert max(seen) == MAX_AHEAD


def test_while_rollouts_wait_for_room_no_others_have_their_prompt_computed(units):
    engine = crowded()
    later = [begin(engine, rollouts(asked(n), adapter=OTHER)) for n in range(2)]
    short = begin(engine, answer(asked(5), settings=replace(GREEDY, max_tokens=2)))
    waited = 0
    for _ in range(40):
        if not num_joining(engine):
            break
        turns(engine, 1)
        waited += num_growing(engine, WorkClass.ROLLOUTS) == 1
    assert waited > 5
    assert short.done()
    finish(engine, *later)
    assert [len(lengths) for lengths in units.prompts] == [1, 1, 2]


# --- who waits for a slot


def blocked(engine: TrainerEngine):
    """A call that waits for the one slot there is, and the one that has it."""
    first = begin(engine, rollouts(QUERY, settings=LONG, num_rollouts=2))
    turns(engine, 1)
    waiting = begin(engine, rollouts(QUERY, adapter=OTHER))
    turns(engine, 2)
    assert num_growing(engine, WorkClass.ROLLOUTS) == 1
    return first, waiting


def test_who_waits_for_a_slot_is_no_miss_at_every_turn():
    engine = engine_of(replace(AMPLE, num_slots=1))
    finish(engine, *blocked(engine))
    assert counted(engine)["moontune_cache_misses_total", "adapters"] == 2


class TickingClock:
    """A second passes from each look at the clock to the next."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("has_answer", [False, True], ids=["alone", "beside-an-answer"])
def test_training_goes_on_while_somebody_waits_for_a_slot(monkeypatch, has_answer):
    monkeypatch.setattr(loop_module, "time", TickingClock())
    engine = engine_of(replace(AMPLE, num_slots=1))
    first, waiting = blocked(engine)
    futures = [first, waiting]
    if has_answer:
        futures.append(begin(engine, answer(asked(1), settings=WARM)))
    trained: list[int] = []

    def parts():
        for number in range(1000):
            trained.append(number)
            yield None

    engine._loop.train(parts)
    num_turns = 0
    while not first.done():
        turns(engine, 1)
        num_turns += 1
    assert num_turns > 20
    assert len(trained) == pytest.approx(num_turns / 2, abs=2)  # every unit takes a second


# --- lines of batches


def line(number: int, **changed) -> Answer:
    return answer(asked(number), work_class=WorkClass.BATCH, **changed)


def test_everybody_passes_a_line_of_a_batch_that_waits_for_a_slot():
    engine = engine_of(replace(AMPLE, num_slots=1))
    first = begin(engine, rollouts(QUERY, settings=LONG, num_rollouts=2))
    turns(engine, 1)
    waiting = begin(engine, line(0, adapter=OTHER))
    turns(engine, 2)
    later = begin(engine, rollouts(asked(1), settings=LONG, num_rollouts=1))
    turns(engine, 4)
    assert num_growing(engine, WorkClass.ROLLOUTS) == 2  # the slot is shared by both
    assert num_growing(engine, WorkClass.BATCH) == 0
    finish(engine, first, later, waiting)


def test_lines_of_batches_come_few_at_a_time_and_are_counted_as_such(units):
    engine = engine_of()
    finish(engine, *[begin(engine, line(n, seed=n)) for n in range(10)])
    assert max(map(len, units.prompts)) == BATCH_PROMPTS
    found = counted(engine)
    assert found["moontune_sampled_tokens_total", "batch", "base"] > 0
    assert found["moontune_requests_waiting", "batch"] == 0
    assert ("moontune_sampled_tokens_total", "inference", "base") not in found


# --- what the parts of a step are made of


def test_adapters_of_a_step_are_put_together_anew_when_half_of_them_are_out_of_use(monkeypatch):
    made: list[int] = []

    def counting(config, adapters, **where):
        stack = AdapterStack(config, adapters, **where)
        made.append(stack.num_adapters)
        return stack

    monkeypatch.setattr(decoder_module, "AdapterStack", counting)
    engine = engine_of()
    refs = [adapter_ref(seed=n, finetune_id=f"{n:026}") for n in range(4)]
    futures = [
        begin(
            engine,
            rollouts(
                QUERY,
                adapter=ref,
                seed=1,
                num_rollouts=1,
                settings=Settings(temperature=1.0, max_tokens=1 + 2 * n),
            ),
        )
        for n, ref in enumerate(refs)
    ]
    seen: list[tuple[int, int]] = []

    def note() -> None:
        layout = engine._sampler._decoder._layout
        if layout is not None and layout.adapter is not None:
            used = {id(row.group.request.adapter) for row in layout.rows}
            seen.append((len(used), layout.adapter.num_adapters))

    finish(engine, *futures, after_each=note)
    assert {used for used, _ in seen} >= {1, 2}
    assert all(have <= 2 * used for used, have in seen)
    assert made == [1, 2, 3, 4, 1]  # each that joins; then four serve three and two, but not one


# --- what is counted


def test_the_bytes_of_adapters_are_bytes():
    engine = engine_of()
    ask(engine, rollouts(QUERY))
    fresh = random_adapter(MICRO.model)  # one of the same rank has the same shapes
    told = counted(engine)["moontune_cache_bytes", "adapters"]
    assert told == fresh.num_bytes + TENSOR_BYTES * len(fresh.tensors)


def test_the_rows_of_a_tick_are_those_that_grew_in_it(units):
    engine = engine_of(SMALL)
    ask(engine, rollouts(settings=replace(WARM, max_tokens=20), num_rollouts=9))
    (found,) = [d for d in engine.stats().distributions if d.name == "moontune_decode_rows"]
    assert sum(found.counts) == len(units.ticks)
    assert found.total == sum(units.rows_of_ticks)
