"""Identifiers on the wire."""

from __future__ import annotations

import pytest

from contract.ids import CheckpointName, parse_ulid

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
