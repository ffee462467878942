"""R9: the disk ends at every place of a story in turn; nothing is lost, nothing is restarted.

A tmpfs of 2 MB, then of 64 kB more, and so on until the story fits. Where a call is refused the
disk gets 64 kB of room under the running service, as often as it takes, and the same call must
succeed; so the disk is full again soon, in other calls. Without root there
is no tmpfs: then the write, sync or directory entry that fails is chosen by the one writer, as in
R10, and no figure says that a real disk was full. The story is played within one process; that the
SDK raises 507 at once, and goes on afterwards, is played with the production worker.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx

from contract import faults
from server.config import DATABASE_FILE
from tests.chaos import worker_faults
from tests.chaos.bench import Bench, Verdict
from tests.chaos.local import (
    Player,
    are_equal,
    damage,
    final_states,
    left_over,
    migrated,
    serving,
    short_story,
)
from tests.chaos.silence import silence

ID = "R9"
TITLE = "a full disk loses nothing, and the service goes on when there is room"

FIRST_KIB, STEP_KIB, AMPLE_KIB = 2048, 64, 64 * 1024
NUM_STEPS = 30
FEW_STEPS_KIB = 768
"""The database and some steps: above the line that is to stay free there is room for these."""

MAX_RELIEFS = 8
"""Times 64 kB, more than any call writes."""


async def story(player: Player) -> None:
    """Steps that fill a disk, with every other call that writes between them."""
    finetune = await player.create("cars")
    for number in range(NUM_STEPS):
        step = await player.train(finetune, ("one", "two", "three")[number % 3])
        await player.log(finetune, step, number / 10)
        if number % 3 == 2:
            await player.save(finetune)
            await player.export(finetune, step)
    other = await player.create("copy", f"{finetune}@3")
    await player.train(other, "four")


@silence()
def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    for spec in worker_faults.file_faults(bench, "enospc"):
        worker_faults.play(bench, verdict, spec, met=worker_faults.answered(507), raises=507)
    with tempfile.TemporaryDirectory(prefix="r9-") as name:
        folder = Path(name)
        (folder / "template").mkdir()
        template = migrated(folder / "template")
        if not _can_mount(folder):
            verdict.skipped.append(
                "a disk that is really full, for want of a tmpfs: not root, or no mounts allowed"
            )
            _without_tmpfs(folder, template, bench, verdict)
            return verdict
        with _disk(folder / "undisturbed", AMPLE_KIB) as disk:
            undisturbed, _ = asyncio.run(_play(disk, template, verdict, min_free_bytes=0))
        stride = bench.count(commit=3, full=1)
        room = bench.count(commit=3 * STEP_KIB, full=STEP_KIB)
        size, fits = FIRST_KIB, False
        refused: Counter[str] = Counter()
        while not fits:
            with _disk(folder / str(size), size) as disk:
                states, calls = asyncio.run(
                    _play(disk, template, verdict, min_free_bytes=0, room_kib=room)
                )
            verdict.demand(are_equal(states, undisturbed), f"{size} KiB: other weights at the end")
            refused.update(calls)
            fits = not calls
            verdict.figures["sizes"] = verdict.figures.get("sizes", 0) + 1
            size += stride * STEP_KIB
        with _disk(folder / "line", FIRST_KIB * 2) as disk:
            line = (FIRST_KIB * 2 - FEW_STEPS_KIB) << 10
            states, calls = asyncio.run(_play(disk, template, verdict, min_free_bytes=line))
        verdict.demand("train_step" in calls, "no step was refused below min_free_bytes")
        verdict.figures["refused_below_min_free"] = len(calls)
        verdict.figures["largest_kib"] = size - stride * STEP_KIB
        verdict.figures |= {f"full_in_{call}": count for call, count in sorted(refused.items())}
        verdict.demand(refused["train_step"] > 0, "the disk was never full in a train step")
    return verdict


async def _play(
    disk: Path,
    template: Path,
    verdict: Verdict,
    *,
    min_free_bytes: int,
    room_kib: int = AMPLE_KIB,
) -> tuple[list[dict], list[str]]:
    """The story on one disk; the final states, and the calls that were refused."""
    shutil.copy(template, disk / DATABASE_FILE)

    async def relief(answer: httpx.Response) -> None:
        body = answer.json()
        verdict.demand(answer.status_code == 507, f"a full disk gave {answer.text}")
        message = body["message"]
        says = "bytes are needed" in message and "are free" in message
        verdict.demand(says, f"507 does not say how much: {message}")
        _resize(disk, _size_kib(disk) + room_kib)

    async with serving(disk, min_free_bytes=min_free_bytes) as http:
        player = Player(http=http, relief=relief, max_reliefs=MAX_RELIEFS)
        try:
            await story(player)
        except AssertionError as error:
            verdict.violations.append(str(error))
    verdict.violations += damage(disk, player.told)
    _resize(disk, AMPLE_KIB)
    async with serving(disk):
        pass  # the start sweeps
    verdict.violations += [f"left over: {name}" for name in left_over(disk)]
    verdict.violations += damage(disk, player.told)
    return final_states(disk), [name for name, _, _ in player.told.refusals]


def _without_tmpfs(folder: Path, template: Path, bench: Bench, verdict: Verdict) -> None:
    number, happened = 1, True
    while happened:
        disk = folder / f"shim-{number}"
        disk.mkdir()
        faults.arm(f"file.write=enospc@{number}")
        happened = bool(asyncio.run(_play_with_faults(disk, template, verdict)))
        faults.arm("")
        verdict.figures["shim_points"] = number
        number += bench.count(commit=3, full=1)


async def _play_with_faults(disk: Path, template: Path, verdict: Verdict) -> list[str]:
    shutil.copy(template, disk / DATABASE_FILE)

    async def relief(answer: httpx.Response) -> None:
        verdict.demand(answer.status_code == 507, f"a full disk gave {answer.text}")

    async with serving(disk) as http:
        player = Player(http=http, relief=relief)
        await short_story(player)
    verdict.violations += damage(disk, player.told)
    return [name for name, _, _ in player.told.refusals]


@contextmanager
def _disk(place: Path, size_kib: int):
    place.mkdir()
    options = f"size={size_kib}k,nr_inodes=4k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def _size_kib(place: Path) -> int:
    disk = os.statvfs(place)
    return disk.f_blocks * disk.f_frsize >> 10


def _resize(place: Path, size_kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_kib}k", place], check=True)


def _can_mount(folder: Path) -> bool:
    if os.geteuid() != 0:
        return False
    place = folder / "probe"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode == 0:
        subprocess.run(["umount", place], check=True)
    return mounted.returncode == 0
