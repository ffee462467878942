"""Finding a model without a network: directories, pulled repositories, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.catalog.licences import APACHE
from trainer.catalog.store import ModelStore, Plan, PulledFile, Record, find_model
from trainer.loading import LoadError

MODEL = "some/model"


def record(**changes: object) -> Record:
    facts = {
        "repository": MODEL,
        "revision": "a" * 40,
        "licence": APACHE,
        "files": (PulledFile(name="config.json", size=2, sha256="0" * 64),),
        "tokenizer_repository": "some/tokenizer",
        "tokenizer_revision": "b" * 40,
        "pulled_at": "2026-01-02T03:04:05+00:00",
    }
    return Record(**{**facts, **changes})  # pyright: ignore[reportArgumentType]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """With one pulled model."""
    store = ModelStore(tmp_path)
    store.directory(MODEL).mkdir(parents=True)
    (store.directory(MODEL) / "config.json").write_text("{}")
    store.write_record(record())
    return store


def test_a_directory_brings_its_own_tokenizer(tmp_path: Path) -> None:
    files = find_model(str(tmp_path), tmp_path / "models")
    assert files.directory == tmp_path
    assert files.tokenizer == tmp_path / "tokenizer.json"


def test_a_record_survives_the_disk(store: ModelStore) -> None:
    assert store.record(MODEL) == record()
    assert store.repositories() == [MODEL]
    assert find_model(MODEL, store.root).directory == store.directory(MODEL)


def test_what_is_neither_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="/no/such/folder is neither"):
        find_model("/no/such/folder", tmp_path)


def test_what_was_never_pulled_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="run `moontune model pull some/model` first"):
        find_model(MODEL, tmp_path)


def test_from_the_plan_to_the_record_the_model_is_incomplete(store: ModelStore) -> None:
    store.write_plan(Plan(repository=MODEL, revision="c" * 40, is_fp8=False))
    with pytest.raises(LoadError, match=r"has not finished; run .* again"):
        find_model(MODEL, store.root)
    store.write_record(record())
    assert store.plan(MODEL) is None
    assert find_model(MODEL, store.root)


def test_a_file_of_another_size_is_named(store: ModelStore) -> None:
    (store.directory(MODEL) / "config.json").write_text("{} ")
    with pytest.raises(LoadError, match=r"lacks config\.json or holds it in another size; run"):
        find_model(MODEL, store.root)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"licence": 3, "files": []}'], ids=repr)
def test_a_record_that_cannot_be_read_is_named(store: ModelStore, text: str) -> None:
    (store.directory(MODEL) / "moontune.json").write_text(text)
    with pytest.raises(LoadError, match=r"moontune\.json cannot be read; remove it and run"):
        find_model(MODEL, store.root)


def test_the_folder_of_models_may_be_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert ModelStore(Path("~/models")).directory(MODEL) == Path("/home/someone/models/some/model")
