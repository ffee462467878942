"""The known models, and what the README says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainer.catalog.known import KNOWN_MODELS, KnownModel, known_model
from trainer.memory import count_parameters

README = (Path(__file__).parents[3] / "README.md").read_text()


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda model: model.repository)
def test_the_readme_names_every_model_with_its_licence(model: KnownModel) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{model.repository}`"))
    assert model.licence.name in row


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda model: model.repository)
def test_a_pinned_revision_is_a_commit_and_the_family_gives_the_size(model: KnownModel) -> None:
    assert model.revision is None or re.fullmatch("[0-9a-f]{40}", model.revision)
    assert count_parameters(model.config).total > 1e9
    assert known_model(model.repository) is model
