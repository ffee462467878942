"""R10: files that fail, files in order, files after a power cut, files that were damaged.

a   the N-th operation of each kind fails with EIO or ENOSPC, N = 1, 2, ... until none does
b   one step's system calls, as strace sees them
c   every state that a power cut may leave of a recorded story
d   flips and truncations of files that rows name
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from contract import durable, faults
from contract.durable import Operation
from contract.engine import FileRef
from contract.errors import StateDamaged
from server.children import module_environment
from server.config import DATABASE_FILE
from server.files import is_intact
from tests.chaos import worker_faults
from tests.chaos.bench import Bench, Verdict
from tests.chaos.local import (
    Player,
    Told,
    are_equal,
    damage,
    final_states,
    left_over,
    migrated,
    pinned_files,
    serving,
    short_story,
)
from tests.chaos.power_cut import Disk
from tests.chaos.silence import silence
from trainer.storage import read_tensors

ID = "R10"
TITLE = "files fail, tear and rot, and no answered step is lost"

POINTS = ("create", "write", "sync", "rename", "sync_directory", "remove")
STATUS_OF = {"eio": 500, "enospc": 507}
TRACED = "trace=write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2"


@silence()
def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    for spec in worker_faults.file_faults(bench, "eio"):  # 500, which the SDK sends again by itself
        worker_faults.play(bench, verdict, spec, met=worker_faults.answered(500))
    with tempfile.TemporaryDirectory(prefix="r10-") as name:
        folder = Path(name)
        (folder / "template").mkdir()
        template = migrated(folder / "template")
        undisturbed = _undisturbed(folder, template, verdict)
        _fail_each(folder, template, undisturbed, bench, verdict)
        _system_calls(folder, template, verdict)
        _power_cuts(folder, template, bench, verdict)
        _rot(folder / "undisturbed", bench, verdict)
    return verdict


def _undisturbed(folder: Path, template: Path, verdict: Verdict) -> list[dict[str, Any]]:
    told = asyncio.run(_play(folder / "undisturbed", template, verdict, status=200))
    verdict.demand(not told.refusals, f"refused without a fault: {told.refusals}")
    return final_states(folder / "undisturbed")


async def _play(data_dir: Path, template: Path, verdict: Verdict, *, status: int) -> Told:
    """The story; a call that fails is made once more, when the fault is over."""
    _new_data_dir(data_dir, template)

    async def relief(answer: httpx.Response) -> None:
        verdict.demand(answer.status_code == status, f"wanted {status}, got {answer.text}")

    async with serving(data_dir) as http:
        player = Player(http=http, relief=relief)
        try:
            await short_story(player)
        except AssertionError as error:
            verdict.violations.append(str(error))
    return player.told


def _new_data_dir(data_dir: Path, template: Path) -> None:
    data_dir.mkdir()
    shutil.copy(template, data_dir / DATABASE_FILE)


# --- a


def _fail_each(
    folder: Path, template: Path, undisturbed: list[Any], bench: Bench, verdict: Verdict
) -> None:
    stride = bench.count(commit=3, full=1)
    for point in POINTS:
        for action, status in STATUS_OF.items():
            number = 1 if point == "remove" else 1 + bench.random.randrange(stride)
            while True:
                data_dir = folder / f"{point}-{action}-{number}"
                fired = _fail_one(
                    data_dir, template, undisturbed, f"file.{point}", action, number, verdict,
                    status=status,
                )  # fmt: skip
                shutil.rmtree(data_dir)
                if not fired:
                    break
                key = f"failed_{point}"
                verdict.figures[key] = verdict.figures.get(key, 0) + 1
                number += stride


def _fail_one(
    data_dir: Path,
    template: Path,
    undisturbed: list[Any],
    point: str,
    action: str,
    number: int,
    verdict: Verdict,
    *,
    status: int,
) -> bool:
    """The story with one fault; whether it happened."""
    here = f"{point}={action}@{number}"
    done: list[Operation] = []
    found = Verdict()
    faults.arm(here)
    try:
        with durable.watched(done.append):
            told = asyncio.run(_play(data_dir, template, found, status=status))
        fired = faults._visits[point] >= number
    finally:
        faults.arm("")
    synced = [operation.path for operation in done if operation.kind == "sync"]
    found.demand(len(synced) == len(set(synced)), "a file was flushed twice")
    found.violations += damage(data_dir, told)

    async def restart() -> None:
        async with serving(data_dir):
            pass

    asyncio.run(restart())
    found.violations += damage(data_dir, told)
    found.violations += [f"left over: {name}" for name in left_over(data_dir)]
    found.demand(are_equal(final_states(data_dir), undisturbed), "other weights at the end")
    verdict.violations += [f"{here}: {text}" for text in found.violations]
    return fired


# --- b


def _system_calls(folder: Path, template: Path, verdict: Verdict) -> None:
    if shutil.which("strace") is None:
        verdict.skipped.append("the order of system calls: strace is not installed")
        return
    data_dir, log = folder / "traced", folder / "strace.log"
    _new_data_dir(data_dir, template)
    command = [
        "strace", "-f", "-y", "-e", TRACED, "-s", "0", "-o", str(log),
        sys.executable, "-m", "tests.chaos.one_step", str(data_dir),
    ]  # fmt: skip
    ended = subprocess.run(
        command, env=module_environment(), check=False, capture_output=True, text=True
    )
    if ended.returncode != 0:
        verdict.skipped.append(f"the order of system calls: {ended.stderr.strip()[-120:]}")
        return
    events = _events(log.read_text())
    last = max((i for i, event in enumerate(events) if event == "answer"), default=None)
    verdict.demand(last is not None, "strace saw no answer")
    begin = max(i for i, event in enumerate(events[:last]) if event == "ask")
    seen = events[begin + 1 : last]
    for kind in ("weights", "optimizer"):
        wanted = [f"write {kind}", f"sync {kind}", f"rename {kind}", "sync directory"]
        places = [seen.index(event) if event in seen else -1 for event in wanted]
        commits = [i for i, event in enumerate(seen) if event == "sync wal"]
        in_order = -1 not in places and places == sorted(places) and bool(commits)
        in_order = in_order and commits[-1] > places[-1]
        verdict.demand(in_order, f"{kind}: the system calls came as {seen}")
    verdict.figures["strace"] = "write, fsync, rename, fsync of the directory, commit, answer"


def _events(text: str) -> list[str]:
    """What matters of the trace, in order of the calls' ends."""
    found: list[str] = []
    begun: dict[str, str] = {}
    for line in text.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            call = begun.pop(pid, "") + resumed[1]
        if (event := _event(call)) is not None:
            found.append(event)
    return found


def _event(call: str) -> str | None:
    name = call.partition("(")[0]
    kind = next((k for k in ("weights", "optimizer") if f".{k}.safetensors" in call), None)
    if name.startswith("rename"):
        return kind and f"rename {kind}"
    if name in ("fsync", "fdatasync"):
        if kind:
            return f"sync {kind}"
        if f"{DATABASE_FILE}-wal" in call:
            return "sync wal"
        return "sync directory" if re.search(r"/finetunes/[0-9A-Z]{26}>", call) else None
    if kind:
        return f"write {kind}"
    if marked := re.search(r"/(asked|answered)\.mark>", call):
        return {"asked": "ask", "answered": "answer"}[marked[1]]
    return None


# --- c


def _power_cuts(folder: Path, template: Path, bench: Bench, verdict: Verdict) -> None:
    data_dir = folder / "recorded"
    moments: list[tuple[Operation | None, dict[str, bytes], Told]] = []
    told_now, one_at_a_time = Told(), threading.Lock()

    def database_files() -> dict[str, bytes]:
        """SQLite flushes at each commit, so what it shows now is what it keeps.

        Its own backup is one view; two files read one after the other are not.
        """
        snapshot = folder / "snapshot.db"
        with (
            closing(sqlite3.connect(data_dir / DATABASE_FILE)) as source,
            closing(sqlite3.connect(snapshot)) as target,
        ):
            source.backup(target)
        data = snapshot.read_bytes()
        snapshot.unlink()
        return {DATABASE_FILE: data}

    def note(operation: Operation | None) -> None:
        with one_at_a_time:
            note_now(operation)

    def note_now(operation: Operation | None) -> None:
        copied = Told(
            finetunes=list(told_now.finetunes),
            steps={finetune: dict(steps) for finetune, steps in told_now.steps.items()},
            saved=list(told_now.saved),
        )
        moments.append((operation, database_files(), copied))

    async def record() -> None:
        _new_data_dir(data_dir, template)

        async def relief(answer: httpx.Response) -> None:
            raise AssertionError(answer.text)

        class Noting(Player):
            async def call(self, *arguments: Any, **named: Any) -> Any:
                answer = await super().call(*arguments, **named)
                note(None)
                return answer

        async with serving(data_dir) as http:
            player = Noting(http=http, relief=relief, told=told_now)
            with durable.watched(note):
                await short_story(player)

    asyncio.run(record())
    disk, num_states, num_resumed = Disk(), 0, 0
    draw = random.Random(bench.seed)
    stride = bench.count(commit=3, full=1)
    every = bench.count(commit=40, full=100)
    for number, (operation, database, told) in enumerate(moments):
        if operation is not None:
            disk.apply(operation)
        if number % stride:
            continue
        for state in disk.survivors(draw):
            num_states += 1
            place = folder / "cut"
            _lay_out(place, data_dir, state, database)
            lost = damage(place, told)
            verdict.violations += [f"cut after operation {number}: {text}" for text in lost]
            if num_states % every == 0:
                num_resumed += 1
                verdict.violations += asyncio.run(_resumed(place, copy.deepcopy(told), number))
            shutil.rmtree(place)
    verdict.figures |= {
        "operations": sum(operation is not None for operation, _, _ in moments),
        "power_cut_states": num_states,
        "power_cuts_resumed": num_resumed,
    }


def _lay_out(
    place: Path, data_dir: Path, state: dict[Path, bytes], database: dict[str, bytes]
) -> None:
    place.mkdir()
    for name, data in database.items():
        (place / name).write_bytes(data)
    for path, data in state.items():
        target = place / path.relative_to(data_dir.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


async def _resumed(place: Path, told: Told, number: int) -> list[str]:
    """Start on it, go on with a step, and look again."""

    async def relief(answer: httpx.Response) -> None:
        raise AssertionError(answer.text)

    async with serving(place) as http:
        player = Player(http=http, relief=relief, told=told)
        try:
            for finetune in told.finetunes:
                await player.train(finetune, "five")
        except AssertionError as error:
            return [f"cut after operation {number}, then: {error}"]
    async with serving(place):
        pass  # the start sweeps what was held when the last step ended
    return [f"resumed after {number}: {text}" for text in damage(place, told)] + [
        f"resumed after {number}: left over: {name}" for name in left_over(place)
    ]


# --- d


def _rot(data_dir: Path, bench: Bench, verdict: Verdict) -> None:
    files = [
        FileRef(
            path=str(data_dir / path), digest=digest, num_bytes=os.stat(data_dir / path).st_size
        )
        for path, digest in pinned_files(data_dir / DATABASE_FILE)
    ]
    originals = {file.path: Path(file.path).read_bytes() for file in files}
    num_damaged = bench.count(commit=333, full=1000)
    num_detected = 0
    for _ in range(num_damaged):
        file = bench.random.choice(files)
        data = bytearray(originals[file.path])
        if bench.random.random() < 0.5:
            data[bench.random.randrange(len(data))] ^= 1 << bench.random.randrange(8)
        else:
            del data[bench.random.randrange(len(data)) :]
        Path(file.path).write_bytes(data)
        num_detected += _is_refused(file)
        Path(file.path).write_bytes(originals[file.path])
    verdict.demand(num_detected == num_damaged, "a damaged file was taken for a good one")
    verdict.figures |= {"damaged": num_damaged, "detected": num_detected}


def _is_refused(file: FileRef) -> bool:
    if file.path.endswith(".pt"):  # sent to callers
        return not is_intact(file)
    try:
        read_tensors(file)
    except StateDamaged:
        return not is_intact(file)
    return False
