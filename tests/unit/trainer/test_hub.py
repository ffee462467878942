"""Finding a model: directories, repositories of the hub (its client replaced), and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import hub
from trainer.loading import LoadError


def test_a_directory_brings_its_own_tokenizer(tmp_path: Path) -> None:
    files = hub.find_model(str(tmp_path))
    assert files.directory == tmp_path
    assert files.tokenizer == tmp_path / "tokenizer.json"


def test_a_repository_takes_the_tokenizer_that_all_published_models_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch_snapshot(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, "tokenizer.json" in allow_patterns))
        return str(tmp_path / "snapshot")

    def fetch_file(repository: str, name: str, *, revision: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "snapshot_download", fetch_snapshot)
    monkeypatch.setattr(hub, "hf_hub_download", fetch_file)
    files = hub.find_model("moondream/moondream3-preview")
    assert asked == [
        ("moondream/moondream3-preview", False),
        ("moondream/starmie-v1", "tokenizer.json"),
    ]
    assert files.tokenizer == tmp_path / "tokenizer.json"


def test_what_is_neither_is_refused_by_name() -> None:
    with pytest.raises(LoadError, match="/no/such/folder is neither"):
        hub.find_model("/no/such/folder")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("no route\nto the hub"), "no route"), (TimeoutError(), "TimeoutError")],
)
def test_a_hub_that_cannot_be_reached_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(LoadError, match=f"some/model could not be fetched from the hub: {reason}$"):
        hub.find_model("some/model")
