"""The engine client against a worker that dies, hangs, lies and talks nonsense."""

# ruff: noqa: ASYNC240 -- a test may block its own loop for a small file.
from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.engine import AdapterRef, Answer, AnswerDelta, MakeRollouts, TrainStep
from contract.errors import EngineFailed, RequestRefused, StorageFull, WorkerUnavailable
from contract.groups import SFTGroup, TrainOptions
from contract.messages import EXIT_REFUSED
from contract.skills import Pixels, QueryRequest, QueryTarget, Settings
from contract.stats import EngineStats, Sample
from server import dialogue, engine_client, worker_process
from server.domain.engine_status import EngineStatus, NotHandedOverError, WorkerDiedError
from server.engine_client import EngineClient, WorkerRefusedError
from server.restarts import RestartSchedule
from server.silence import SilenceLimits

pytestmark = pytest.mark.anyio

ClientFactory = Callable[..., EngineClient]
ADAPTER = AdapterRef(finetune_id="0" * 26, step=0, rank=8, seed=1, weights=None)


def question(text: str) -> Answer:
    request = QueryRequest(question=text)
    return Answer(adapter=None, request=request, settings=Settings(temperature=0.0), seed=1)


async def ask(client: EngineClient, text: str) -> str:
    """Ask whoever is ready, as soon as somebody is."""
    while True:
        await client.describe()
        try:
            return (await client.answer(question(text), ())).output["answer"]
        except NotHandedOverError:
            continue


async def ask_and_hang(client: EngineClient) -> asyncio.Task[object]:
    """Ask what is never answered, and go on when the worker has it."""
    is_there = asyncio.Event()
    call = asyncio.create_task(client.answer(question("hang"), (), lambda _: is_there.set()))
    await is_there.wait()
    return call


def in_hand(client: EngineClient) -> list[bool]:
    """Of each call that waits for an answer: whether the worker is being given it, or has it."""
    assert client._dialogue is not None
    return [call.is_handed_over for call in client._dialogue._calls.values()]


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 -- what is watched belongs to another process.
        await asyncio.sleep(0.005)


def picture(num_bytes: int, value: int = 0) -> Pixels:
    return Pixels(height=1, width=num_bytes // 3, digest="0" * 64, data=bytes([value]) * num_bytes)


async def test_a_call_without_a_worker_is_told_so_at_once(make_client: ClientFactory) -> None:
    client = make_client()
    with pytest.raises(NotHandedOverError):
        await client.answer(question("too early"), ())
    assert await client.drop("0" * 26) is None  # nobody is there who could remember
    await client.start()
    assert await ask(client, "hello") == "hello"
    await client.stop()
    with pytest.raises(WorkerUnavailable, match="stopping"):
        await client.answer(question("too late"), ())


async def test_describe_waits_for_the_model_and_the_status_tells_its_states(
    make_client: ClientFactory,
) -> None:
    seen: list[EngineStatus] = []
    client = make_client(on_status=seen.append)
    assert client.status().state == "starting"
    await client.start()
    model = await client.describe()
    assert model.name == "fake"
    assert client.status().state == "ready"
    assert client.status().model == model
    await client.stop()
    assert [s.state for s in seen] == ["starting", "starting", "ready", "unavailable"]
    assert seen[1].detail == "loading shard 1 of 1"


async def test_every_verb_returns_its_typed_result(make_client: ClientFactory) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    command = MakeRollouts(
        adapter=ADAPTER,
        request=QueryRequest(question="?", image=0),
        settings=Settings(temperature=1.0),
        num_rollouts=1,
        seed=2,
    )
    made = await client.make_rollouts(command, [picture(3, 5), picture(3, 6)])
    assert made.rewards == (5.0, 6.0)
    assert (await client.train_step(train_step(), ())).extra == {"num_bytes": 0}
    assert (await client.answer(question("a"), ())).output == {"answer": "a"}
    assert await client.drop("0" * 26) is None


def train_step() -> TrainStep:
    group = SFTGroup(request=QueryRequest(question="?"), targets=(QueryTarget(answer="a"),))
    return TrainStep(
        adapter=ADAPTER,
        optimizer=None,
        groups=(group,),
        lr=0.1,
        options=TrainOptions(),
        weights_path="/w",
        optimizer_path="/o",
    )


async def test_calls_are_multiplexed_and_overtake_one_that_takes_long(
    make_client: ClientFactory,
) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    slow = await ask_and_hang(client)
    assert await asyncio.gather(*(ask(client, f"{i}") for i in range(50))) == [
        str(i) for i in range(50)
    ]
    assert not slow.done()
    slow.cancel()


@pytest.mark.parametrize(
    ("text", "error"),
    [("refuse", RequestRefused), ("full", StorageFull), ("fail", EngineFailed)],
)
async def test_errors_of_the_worker_reach_the_caller(
    make_client: ClientFactory, text: str, error: type[Exception]
) -> None:
    client = make_client()
    await client.start()
    with pytest.raises(error) as caught:
        await ask(client, text)
    if isinstance(caught.value, RequestRefused):
        assert (caught.value.code, caught.value.loc) == ("batch_too_large", ("groups", 3))
    assert await ask(client, "still here") == "still here"


@pytest.mark.parametrize("text", ["exit 3", "exit 0", "kill", "hang_up"])
async def test_a_death_fails_the_calls_in_flight_and_the_next_worker_serves(
    make_client: ClientFactory, text: str
) -> None:
    client = make_client(stop_seconds=0.1)
    await client.start()
    first = await ask(client, "pid")
    bystander = await ask_and_hang(client)
    for call in (ask(client, text), bystander):
        with pytest.raises(WorkerUnavailable):
            await call
    second = await ask(client, "pid")
    assert second != first
    assert client.status().state == "ready"


async def test_a_worker_that_is_killed_from_outside_is_replaced(make_client: ClientFactory) -> None:
    seen: list[EngineStatus] = []
    client = make_client(on_status=seen.append)
    await client.start()
    await client.describe()
    for _ in range(3):
        pid = client.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: client.worker_pid != pid)
        assert await ask(client, "again") == "again"
    assert client.status().num_starts == 4
    details = [s.detail for s in seen if s.state == "unavailable"]
    assert any("signal SIGKILL" in detail for detail in details)


async def test_a_worker_that_dies_at_start_is_started_again(make_client: ClientFactory) -> None:
    seen: list[EngineStatus] = []
    client = make_client("only_second", on_status=seen.append)
    await client.start()
    assert await ask(client, "hello") == "hello"
    assert any("exit status 3 before it was ready" in s.detail for s in seen)


async def test_the_cause_of_a_death_at_start_is_in_the_status(
    make_client: ClientFactory, log_path: Path
) -> None:
    client = make_client("exit3", restarts=RestartSchedule(first_pause_seconds=60.0))
    await client.start()
    await until(lambda: "exit status 3" in client.status().detail)
    assert client.status().state == "unavailable"
    assert client.status().model is None
    assert "The folder 'x' holds no model." in client.status().detail
    assert "in 60 s" in client.status().detail
    assert "first line" in log_path.read_text()


async def test_a_refusal_at_the_first_start_is_told_to_who_waits_for_it(
    make_client: ClientFactory,
) -> None:
    client = make_client(f"exit{EXIT_REFUSED}", restarts=RestartSchedule(first_pause_seconds=60.0))
    await client.start()
    with pytest.raises(WorkerRefusedError, match=r"^The folder 'x' holds no model\.$"):
        await client.wait_until_ready()


async def test_a_command_that_does_not_exist_is_a_reason_not_a_crash(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(restarts=RestartSchedule(first_pause_seconds=60.0))
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    await client.start()
    await until(lambda: "could not be started" in client.status().detail)
    assert client.status().state == "unavailable"


async def test_a_cancelled_call_is_discarded_and_harms_nobody(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogue, "LET_GO_SECONDS", 0.01)
    client = make_client()
    await client.start()
    await client.describe()
    pid = client.worker_pid
    for text in ("wait 0.02", "hang"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(client, text), 0.01)
    await asyncio.sleep(0.03)
    assert await ask(client, "next") == "next"
    assert client.worker_pid == pid


async def test_a_worker_is_told_when_nobody_waits_for_an_answer_any_more(
    make_client: ClientFactory,
) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    is_there = asyncio.Event()
    left = asyncio.create_task(
        client.answer(question("hang_until_cancelled"), (), lambda _: is_there.set())
    )
    await is_there.wait()
    left.cancel()
    told = await ask(client, "cancelled")  # answered when the worker was told
    assert told == "[1]"  # it was the first call
    assert await ask(client, "still here") == "still here"


async def test_a_step_whose_caller_left_is_finished(make_client: ClientFactory) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    step = asyncio.create_task(client.train_step(train_step(), [picture(90_000_000)]))
    await until(lambda: in_hand(client) == [True])  # in the middle of its frame
    step.cancel()
    assert await ask(client, "cancelled_so_far") == "[]"


async def test_deltas_come_in_order_before_the_result(make_client: ClientFactory) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    heard: list[AnswerDelta] = []
    answered = await client.answer(question("stream a |rose| is"), (), heard.append)
    assert [delta.text for delta in heard] == ["a ", "rose", " is"]
    assert answered.output == {"answer": "a rose is"}
    assert (await client.answer(question("stream nobody|hears"), ())).input_tokens == 1


async def test_a_listener_that_fails_hears_nothing_more_and_harms_nobody(
    make_client: ClientFactory,
) -> None:
    client = make_client()
    await client.start()
    heard: list[AnswerDelta] = []

    def fail(delta: AnswerDelta) -> None:
        heard.append(delta)
        raise RuntimeError("The listener's own fault.")

    pid = await ask(client, "pid")
    answered = await client.answer(question("stream a|b"), (), fail)
    assert answered.output == {"answer": "ab"}
    assert [delta.text for delta in heard] == ["a"]
    assert await ask(client, "pid") == pid


async def test_deltas_of_other_calls_and_workers_reach_nobody(make_client: ClientFactory) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    heard: list[AnswerDelta] = []
    await client.answer(question("stream_others"), (), heard.append)
    assert heard == []


async def test_what_the_worker_counted_is_known_while_it_lives(make_client: ClientFactory) -> None:
    client = make_client()
    assert client.stats() == EngineStats()
    await client.start()
    await client.describe()
    assert client.stats() == EngineStats()
    for count in (3.0, 4.0):
        await ask(client, f"count {count}")
        sample = Sample(name="moontune_rows_running", labels=(), value=count)
        assert client.stats() == EngineStats(samples=(sample,))
    with pytest.raises(WorkerUnavailable):
        await ask(client, "exit 3")
    assert client.stats() == EngineStats()


async def test_a_stale_epoch_is_dropped(make_client: ClientFactory) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    # The worker sends results of another epoch, and for an unknown id, before the right one.
    answered = await client.answer(question("stale"), ())
    assert answered.input_tokens == 1


async def test_a_worker_of_another_epoch_never_becomes_ready(make_client: ClientFactory) -> None:
    client = make_client("wrong_epoch")
    await client.start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.describe(), 0.3)


@pytest.mark.parametrize(
    "text", ["garbage", "nonsense no_kind", "nonsense other_kind", "unreadable", "stream_nonsense"]
)
async def test_a_worker_that_talks_nonsense_is_replaced(
    make_client: ClientFactory, text: str
) -> None:
    seen: list[EngineStatus] = []
    client = make_client(on_status=seen.append)
    await client.start()
    pid = await ask(client, "pid")
    with pytest.raises(WorkerUnavailable):
        await ask(client, text)
    assert await ask(client, "pid") != pid
    assert any("cannot be read" in s.detail for s in seen)


async def test_a_large_step_arrives_whole_and_the_loop_stays_responsive(
    make_client: ClientFactory,
) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    num_turns = 0

    async def count_turns() -> None:
        nonlocal num_turns
        while True:
            await asyncio.sleep(0)
            num_turns += 1

    counting = asyncio.create_task(count_turns())
    trained = await client.train_step(train_step(), [picture(12_000_000) for _ in range(12)])
    counting.cancel()
    assert trained.extra == {"num_bytes": 144_000_000}
    # The socket takes a fifth of a megabyte at a time, and others get a turn after each.
    assert num_turns > 144


async def test_a_caller_that_leaves_in_the_middle_of_its_frame_does_not_cut_it(
    make_client: ClientFactory,
) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    pid = client.worker_pid
    large = asyncio.create_task(client.train_step(train_step(), [picture(90_000_000)]))
    await until(lambda: in_hand(client) == [True])  # in the middle of its frame
    large.cancel()
    assert await ask(client, "whole") == "whole"
    assert client.worker_pid == pid


async def test_a_deaf_worker_exerts_backpressure_and_can_be_stopped(
    make_client: ClientFactory,
) -> None:
    client = make_client("deaf", stop_seconds=0.05)
    await client.start()
    await client.describe()
    calls = [
        asyncio.create_task(client.train_step(train_step(), [picture(30_000_000)]))
        for _ in range(2)
    ]
    await until(lambda: in_hand(client) == [True, False])
    await asyncio.sleep(0.05)
    assert not any(call.done() for call in calls)
    await client.stop()
    for call in calls:
        with pytest.raises(WorkerUnavailable):
            await call


async def test_a_call_the_dead_worker_never_saw_is_told_so(
    make_client: ClientFactory,
) -> None:
    client = make_client("deaf_once")
    await client.start()
    await client.describe()
    pid = client.worker_pid
    assert pid is not None
    blocked = asyncio.create_task(client.train_step(train_step(), [picture(30_000_000)]))
    await until(lambda: in_hand(client) == [True])
    queued = asyncio.create_task(client.answer(question("queued"), ()))
    await until(lambda: in_hand(client) == [True, False])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError):
        await blocked
    with pytest.raises(NotHandedOverError):
        await queued
    assert await ask(client, "next") == "next"


async def test_stop_lets_the_worker_end_in_order(
    make_client: ClientFactory, log_path: Path
) -> None:
    client = make_client()
    await client.start()
    await client.describe()
    pid = client.worker_pid
    assert pid is not None
    waiting = await ask_and_hang(client)
    await client.stop()
    assert "stopped in order" in log_path.read_text()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(WorkerUnavailable):
        await waiting
    with pytest.raises(WorkerUnavailable):
        await ask(client, "too late")


async def test_a_worker_deaf_to_every_wish_is_killed(make_client: ClientFactory) -> None:
    client = make_client(stop_seconds=0.02)
    await client.start()
    await client.describe()
    pid = client.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await client.stop()
    assert not Path(f"/proc/{pid}").exists()


async def test_stop_before_start_and_stop_twice_are_harmless(make_client: ClientFactory) -> None:
    client = make_client()
    await client.stop()
    other = make_client()
    await other.start()
    await other.stop()
    await other.stop()


async def test_stop_does_not_wait_for_a_pause(make_client: ClientFactory) -> None:
    client = make_client("exit3", restarts=RestartSchedule(first_pause_seconds=60.0))
    await client.start()
    await until(lambda: client.status().state == "unavailable")
    await asyncio.wait_for(client.stop(), 2.0)


async def test_a_long_log_is_moved_out_of_the_way(
    make_client: ClientFactory, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.worker_process.MAX_LOG_BYTES", 10)
    log_path.parent.mkdir()
    log_path.write_text("an old log of more than ten bytes")
    client = make_client()
    await client.start()
    await client.describe()
    assert log_path.read_text() == ""
    assert log_path.with_name("worker.log.1").read_text().startswith("an old log")


# --- workers that are stuck, or other than they were


async def test_a_worker_that_hangs_with_a_call_is_killed_at_its_bound(
    make_client: ClientFactory,
) -> None:
    client = make_client(limits=SilenceLimits(ready=0.5))
    await client.start()
    stuck = int(await ask(client, "pid"))
    os.kill(stuck, signal.SIGSTOP)
    with pytest.raises(WorkerDiedError, match="ended during this call"):
        await ask(client, "hello")
    assert await ask(client, "hello") == "hello"
    assert not Path(f"/proc/{stuck}").exists()


@pytest.mark.parametrize("is_stopped_meanwhile", [False, True])
async def test_a_worker_that_does_not_end_when_killed_is_told_and_replaced_at_its_end(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, is_stopped_meanwhile: bool
) -> None:
    monkeypatch.setattr(worker_process, "STUCK_SECONDS", 0.05)
    client = make_client(limits=SilenceLimits(ready=0.3))
    await client.start()
    stuck = int(await ask(client, "pid"))
    assert client._worker is not None
    process = client._worker._process
    monkeypatch.setattr(process, "kill", lambda: None)  # as if in the kernel
    monkeypatch.setattr(process, "terminate", lambda: None)
    os.kill(stuck, signal.SIGSTOP)
    with pytest.raises(WorkerDiedError):  # who waits for it is told
        await client.answer(question("hang"), ())
    assert f"process {stuck}) was killed and does not end" in client.status().detail
    assert client.status().state == "unavailable"
    if is_stopped_meanwhile:
        await asyncio.wait_for(client.stop(), 5.0)
        os.kill(stuck, signal.SIGKILL)
        await process.wait()  # nobody else does: the client has given it up
    else:
        os.kill(stuck, signal.SIGKILL)
        assert int(await ask(client, "pid")) != stuck


async def test_an_idle_worker_answers_pings_and_lives(make_client: ClientFactory) -> None:
    client = make_client(limits=SilenceLimits(ready=0.2))
    await client.start()
    pid = await ask(client, "pid")
    await asyncio.sleep(1.0)
    assert await ask(client, "pid") == pid


async def test_an_idle_worker_that_was_stopped_is_replaced(make_client: ClientFactory) -> None:
    client = make_client(limits=SilenceLimits(ready=0.3))
    await client.start()
    pid = int(await ask(client, "pid"))
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: client.status().num_starts == 2 and client.status().state == "ready")
    assert int(await ask(client, "pid")) != pid


async def test_a_worker_that_says_nothing_while_it_starts_is_replaced(
    make_client: ClientFactory,
) -> None:
    seen: list[EngineStatus] = []
    client = make_client("mute", limits=SilenceLimits(starting=0.3), on_status=seen.append)
    await client.start()
    await until(lambda: any("said nothing for 0.3 s" in status.detail for status in seen))


async def test_a_worker_that_computes_otherwise_gets_no_call(make_client: ClientFactory) -> None:
    seen: list[EngineStatus] = []
    client = make_client("other_canary", on_status=seen.append)
    await client.start()
    os.kill(int(await ask(client, "pid")), signal.SIGKILL)
    await until(lambda: any("computes otherwise" in status.detail for status in seen))
    assert client.status().state != "ready"


async def test_two_workers_that_agree_against_the_first_are_believed(
    make_client: ClientFactory,
) -> None:
    client = make_client("odd_first_canary")
    await client.start()
    os.kill(int(await ask(client, "pid")), signal.SIGKILL)
    # The second one alone is not believed.
    await until(lambda: client.status().num_starts == 3 and client.status().state == "ready")
    assert await ask(client, "hello") == "hello"


async def test_a_database_that_gives_no_number_is_no_failed_start(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "EPOCH_PAUSE_SECONDS", 0.001)
    numbers = iter([None, None, 7])
    seen: list[EngineStatus] = []

    def next_epoch() -> int:
        number = next(numbers)
        if number is None:
            raise OSError("busy")
        return number

    client = make_client(next_epoch=next_epoch, on_status=seen.append)
    await client.start()
    assert await ask(client, "hello") == "hello"
    assert (client.status().num_starts, client.status().epoch) == (1, 7)
    assert "no number yet: busy" in seen[0].detail
