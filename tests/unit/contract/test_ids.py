"""Identifiers on the wire."""

from __future__ import annotations

import pytest

from contract.ids import CheckpointName, NumberedCheckpoint, parse_ulid

ULID = "01HXYZ0123456789ABCDEFGHJK"


def test_a_ulid_is_accepted_in_any_case_and_kept_in_upper_case() -> None:
    assert parse_ulid(ULID.lower()) == ULID


@pytest.mark.parametrize("text", ["", ULID[:-1], ULID + "0", "8" + ULID[1:], ULID[:-1] + "U"])
def test_what_is_no_ulid_is_none(text: str) -> None:
    assert parse_ulid(text) is None


@pytest.mark.parametrize("prefix", ["", "moondream3-preview/", "a/b/"])
def test_a_checkpoint_name_is_read_with_any_prefix_or_none(prefix: str) -> None:
    name = CheckpointName.parse(f"{prefix}{ULID.lower()}@40")
    assert name == CheckpointName(finetune_id=ULID, step=40)
    assert str(name) == f"moondream3-preview/{ULID}@40"


@pytest.mark.parametrize("text", [ULID, f"{ULID}@", f"{ULID}@-1", f"{ULID}@x", "moondream@3", "@1"])
def test_what_is_no_checkpoint_name_is_none(text: str) -> None:
    assert CheckpointName.parse(text) is None


@pytest.mark.parametrize(("number", "name"), [(1, "chk_001"), (999, "chk_999"), (1000, "chk_1000")])
def test_a_number_is_read_as_it_is_written_and_after_a_doubled_id(number: int, name: str) -> None:
    checkpoint = NumberedCheckpoint(finetune_id=ULID, number=number)
    assert str(checkpoint) == f"{ULID}/{name}"
    for text in (str(checkpoint), f"{ULID.lower()}/{name}", f"{ULID.lower()}/{checkpoint}"):
        assert NumberedCheckpoint.parse(text) == checkpoint


@pytest.mark.parametrize(
    "text",
    ["chk_001", f"{ULID}/chk_1", f"{ULID}/chk_0001", f"{ULID}/chk_001\n", f"{ULID}/chk_²²²",
     f"{ULID[:-1]}0/{ULID}/chk_001", f"{ULID}/{ULID}/{ULID}/chk_001", f"8{ULID[1:]}/chk_001"],
)  # fmt: skip
def test_what_is_no_numbered_checkpoint_is_none(text: str) -> None:
    assert NumberedCheckpoint.parse(text) is None
