"""The faults of `make mutate` still fit the code that they are put into."""

from __future__ import annotations

import pytest

from tests.mutate import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_fault_finds_its_place(mutation):
    text = (ROOT / "trainer" / "model" / mutation.file).read_text()
    for before, after in mutation.edits:
        assert text.count(before) == 1
        text = text.replace(before, after)
