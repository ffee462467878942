"""Hostile pictures through the real decoding child: right or refused, quickly, within memory; S6.

Time is the child's time on a CPU, so that a busy machine changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.skills import Pixels
from server.domain.errors import ImageDecodeError, ImageTooLargeError
from server.images.decode_process import MAX_MEMORY_BYTES
from server.images.decoder import ImageDecoder
from server.images.jpeg_scans import count_scans
from tests.unit.images.files import data_url
from tests.unit.images.hostile import complaint, corpus, truncations
from tests.unit.images.test_decoder import decoding_children

pytestmark = pytest.mark.anyio

MAX_REFUSAL_SECONDS, MAX_DECODE_SECONDS = 1.0, 3.0
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Of all children of this process, those that have ended included."""
    ended = os.times()
    total = ended.children_user + ended.children_system
    for pid in decoding_children():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICK
    return total


def peak_bytes() -> int:
    """The most address space of the children that live."""
    lines = [
        line
        for pid in decoding_children()
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmPeak:")
    ]
    return max((int(line.split()[1]) << 10 for line in lines), default=0)


async def outcome_of(decoder: ImageDecoder, data: bytes) -> Pixels | Exception:
    try:
        return await decoder.decode(data_url(data))
    except (ImageDecodeError, ImageTooLargeError) as refusal:
        return refusal


async def test_every_hostile_picture_is_right_or_refused_in_time(anyio_backend: str) -> None:
    decoder = ImageDecoder(num_processes=1, max_bytes=10 << 20, max_pixels=50_000_000)
    await decoder.start()
    cases = corpus(side=3500)
    assert len(cases) >= 160
    complaints: list[str] = []
    for case in cases:
        before = cpu_seconds()
        outcome = await outcome_of(decoder, case.data)
        seconds = cpu_seconds() - before
        is_refusal = isinstance(outcome, Exception)
        if found := complaint(case, outcome):
            complaints.append(f"{case.name}: {found}")
        if seconds > (MAX_REFUSAL_SECONDS if is_refusal else MAX_DECODE_SECONDS):
            complaints.append(f"{case.name}: {seconds:.2f} s of CPU")
        assert peak_bytes() <= MAX_MEMORY_BYTES, case.name
    assert complaints == []
    await decoder.stop()


async def test_a_file_that_is_cut_off_anywhere_shows_all_or_is_refused(
    decoder: ImageDecoder,
) -> None:
    num_refused, num_whole, complaints = 0, 0, []
    for case, part in truncations():
        outcome = await outcome_of(decoder, part)
        if isinstance(outcome, Exception):
            num_refused += 1
            continue
        num_whole += 1
        if found := complaint(case, outcome):
            complaints.append(f"{case.name} at {len(part)} of {len(case.data)}: {found}")
    assert complaints == []
    assert num_refused > 700
    assert num_refused + num_whole == 800


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"\xff\xd8\xff\xd9", 0),
        (b"\xff\xd8\xff\xda\0\2abc\xff\0\xff\xd3\xff\xd9\xff\xda\0\2", 1),  # the end is the end
        (b"\xff\xd8\xff\xe1\0\x08\xff\xda\0\2ab\xff\xda\0\2x\xff\xff\xda\0\2\xff\xd9", 2),
        (b"\xff\xd8\xff\x01\xff\xda\0\2\xff\xd8\xff\xda\0\2", 2),
        (b"\xff\xd8" + b"\xff\xda\0\2" * 50, 11),
    ],
    ids=["none", "stuffed", "inside_a_segment", "without_a_length", "many"],
)
def test_scans_are_counted_by_their_markers(data: bytes, wanted: int) -> None:
    assert count_scans(data, at_most=10) == wanted
