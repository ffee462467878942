"""Pulling from a stand-in hub: what is fetched, resumed, recorded, refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_stand_in import HubStandIn, Repository, run_hub
from trainer.catalog.hub import Hub, HubError
from trainer.catalog.known import TOKENIZER_REPOSITORY, TOKENIZER_REVISION
from trainer.catalog.progress import plain_progress
from trainer.catalog.pull import PullError, pull
from trainer.catalog.store import ModelStore, Record, find_model
from trainer.loading import LoadError

PREVIEW, MOONDREAM2 = "moondream/moondream3-preview", "vikhyatk/moondream2"
CHUNK = 10 << 20
"""What the hub's client writes at once."""
CONFIG = b'{"model_type": "moondream3"}'
SHARDS = {f"model-0000{i}-of-00002.safetensors": f"shard {i}".encode() for i in (1, 2)}
INDEX = json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()
NOT_OURS = {
    "README.md": b"# A model",
    "hf_moondream.py": b"import os",
    "tokenizer.json": b"a stale one",
    "onnx/model.safetensors": b"other weights",
}


def preview(**changes: Any) -> Repository:
    files = {
        "config.json": CONFIG,
        "model.safetensors.index.json": INDEX,
        **SHARDS,
        "model_fp8.pt": b"fp8 weights",
        **NOT_OURS,
    }
    return Repository(**{"files": files, "commit": "a" * 40, **changes})


def tokenizer() -> Repository:
    return Repository(files={"tokenizer.json": b"{}"}, commit=TOKENIZER_REVISION)


@pytest.fixture
def stand_in() -> Iterator[HubStandIn]:
    with run_hub({PREVIEW: preview(), TOKENIZER_REPOSITORY: tokenizer()}) as hub:
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def pull_from(hub: HubStandIn, store: ModelStore, repository: str = PREVIEW, **options: Any):
    """Pull, and give the record with what was said."""
    said: list[str] = []
    client = Hub(hub.url, progress_bar=plain_progress(said.append))
    return pull(repository, hub=client, store=store, say=said.append, **options), said


def names(record: Record) -> list[str]:
    return [file.name for file in record.files]


def test_a_pull_brings_config_weights_and_the_shared_tokenizer_and_nothing_else(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    record, _ = pull_from(stand_in, store)
    wanted = ["config.json", "model.safetensors.index.json", *SHARDS, "tokenizer.json"]
    assert names(record) == wanted
    directory = store.directory(PREVIEW)
    assert sorted(path.name for path in directory.iterdir()) == sorted([*wanted, "moontune.json"])
    assert (directory / "tokenizer.json").read_bytes() == b"{}"
    assert set(stand_in.names_asked()) == set(wanted)


def test_the_record_names_commit_licence_and_digests(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    record, said = pull_from(stand_in, store)
    assert store.record(PREVIEW) == record
    assert (record.repository, record.revision) == (PREVIEW, "a" * 40)
    assert record.tokenizer_revision == TOKENIZER_REVISION
    assert record.licence.name == "BSL 1.1 with a use grant"
    assert f"Licence: {record.licence.name}: {record.licence.meaning}" in said
    digests = {file.name: (file.size, file.sha256) for file in record.files}
    assert digests["config.json"] == (len(CONFIG), hashlib.sha256(CONFIG).hexdigest())


def test_a_pulled_model_is_found_and_a_second_pull_asks_nobody(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    pull_from(stand_in, store)
    stand_in.repositories.clear()
    stand_in.asked.clear()
    _, said = pull_from(stand_in, store)
    assert said == [f"{PREVIEW} is here already, revision {'a' * 40}."]
    assert stand_in.asked == []
    files = find_model(PREVIEW, store.root)
    assert files.directory == store.directory(PREVIEW)
    assert files.tokenizer == store.directory(PREVIEW) / "tokenizer.json"


def big_preview() -> tuple[Repository, bytes]:
    """With one weights file of two and a half chunks."""
    content = bytes(range(256)) * (CHUNK // 100)
    return preview(files={"config.json": CONFIG, "model.safetensors": content}), content


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    stand_in.repositories[PREVIEW], content = big_preview()
    stand_in.break_off_after = CHUNK + 1000
    _, said = pull_from(stand_in, store)
    ranges = [asked.range for asked in stand_in.asked if asked.name == "model.safetensors"]
    assert ranges == [None, f"bytes={CHUNK}-"]
    assert (store.directory(PREVIEW) / "model.safetensors").read_bytes() == content
    # One line per ten percent that a chunk of 10.5 of 26.8 MB passes
    assert [line for line in said if "%" in line] == [
        f"model.safetensors: {percent} % of 27 MB" for percent in (30, 70, 100)
    ]


def test_what_an_earlier_pull_left_is_continued(stand_in: HubStandIn, store: ModelStore) -> None:
    stand_in.repositories[PREVIEW], content = big_preview()
    directory = store.directory(PREVIEW)
    directory.mkdir(parents=True)
    digest = hashlib.sha256(content).hexdigest()
    partial = directory / f"model.safetensors.{digest[:12]}.partial"
    partial.write_bytes(content[: CHUNK + 7])
    _, said = pull_from(stand_in, store)
    ranges = [asked.range for asked in stand_in.asked if asked.name == "model.safetensors"]
    assert ranges == [f"bytes={CHUNK + 7}-"]
    assert "model.safetensors: going on at 10 MB of 27 MB" in said
    assert (directory / "model.safetensors").read_bytes() == content
    assert not partial.exists()


def test_a_pull_that_stopped_goes_on_with_its_commit(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    stand_in.repositories[TOKENIZER_REPOSITORY].is_gated = True  # the last file does not come
    with pytest.raises(HubError):
        pull_from(stand_in, store)
    with pytest.raises(LoadError, match="has not finished; run `moontune model pull"):
        find_model(PREVIEW, store.root)

    stand_in.repositories[TOKENIZER_REPOSITORY] = tokenizer()
    stand_in.repositories[PREVIEW] = preview(commit="b" * 40)  # main has moved
    with pytest.raises(HubError, match=f"has no revision {'a' * 40}"):
        pull_from(stand_in, store)
    stand_in.repositories[PREVIEW] = preview()
    stand_in.asked.clear()
    record, _ = pull_from(stand_in, store)
    assert record.revision == "a" * 40
    assert not set(SHARDS) & set(stand_in.names_asked()), "they are here"


def test_another_revision_replaces_the_first_and_its_files(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    pull_from(stand_in, store)
    files = {"config.json": CONFIG, "model.safetensors": b"in one piece"}
    stand_in.repositories[PREVIEW] = preview(files=files, commit="b" * 40)
    record, said = pull_from(stand_in, store, revision="main")
    assert record.revision == "b" * 40
    left = {path.name for path in store.directory(PREVIEW).iterdir()}
    assert left == {"config.json", "model.safetensors", "tokenizer.json", "moontune.json"}
    assert f"Removed {next(iter(SHARDS))}, which is no part of what was pulled." in said


def test_the_fp8_weights_come_alone_and_are_remembered(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    record, _ = pull_from(stand_in, store, is_fp8=True)
    assert names(record) == ["config.json", "model_fp8.pt", "tokenizer.json"]
    (store.directory(PREVIEW) / "model_fp8.pt").unlink()
    with pytest.raises(LoadError, match=r"lacks model_fp8\.pt"):
        find_model(PREVIEW, store.root)
    again, _ = pull_from(stand_in, store)
    assert names(again) == names(record)
    whole, _ = pull_from(stand_in, store, is_fp8=False)
    assert "model_fp8.pt" not in names(whole)
    assert not (store.directory(PREVIEW) / "model_fp8.pt").exists()


def test_fp8_where_there_is_none_is_refused(stand_in: HubStandIn, store: ModelStore) -> None:
    with pytest.raises(PullError, match="no second set of weights in fp8"):
        pull_from(stand_in, store, MOONDREAM2, is_fp8=True)


def test_a_pinned_model_comes_in_its_pinned_revision(
    stand_in: HubStandIn, store: ModelStore
) -> None:
    pinned = "9a7d4024050840e001defacec2b00727e89149e6"
    files = {"config.json": b'{"model_type": "moondream1"}', "model.safetensors": b"dense"}
    stand_in.repositories[MOONDREAM2] = Repository(files=files, commit=pinned)
    record, _ = pull_from(stand_in, store, MOONDREAM2)
    assert (record.revision, record.licence.name) == (pinned, "Apache-2.0")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "apache-2.0"}, "apache-2.0"),
        ({"license": "other", "license_name": "moondream-1.0"}, "moondream-1.0"),
        ({}, "unknown"),
    ],
    ids=["plain", "named", "silent"],
)
def test_an_unknown_repository_has_the_licence_of_its_card(
    stand_in: HubStandIn, store: ModelStore, card: dict[str, str], licence: str
) -> None:
    files = {"config.json": b"{}", "weights.safetensors": b"one"}
    stand_in.repositories["some/one"] = Repository(files=files, commit="c" * 40, card=card)
    record, said = pull_from(stand_in, store, "some/one")
    assert record.licence.name == licence
    assert any(line.startswith(f"Licence: {licence}: ") for line in said)


def test_a_token_goes_to_the_hub_and_not_to_where_it_sends_us(
    stand_in: HubStandIn, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull_from(stand_in, store)
    by_name = {asked.name: asked.authorization for asked in stand_in.asked}
    assert by_name["config.json"] == "Bearer hf_secret"
    assert [by_name[shard] for shard in SHARDS] == [None, None]


def test_content_that_is_not_what_the_hub_lists_is_thrown_away(
    stand_in: HubStandIn, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = stand_in.repositories[PREVIEW].info(PREVIEW)
    config = next(file for file in listed["siblings"] if file["rfilename"] == "config.json")
    config["blobId"] = "0" * 40
    monkeypatch.setattr(stand_in.repositories[PREVIEW], "info", lambda _: listed)
    with pytest.raises(HubError, match=r"config\.json of .* came with other content"):
        pull_from(stand_in, store)


@pytest.mark.parametrize(
    ("repository", "options", "reason"),
    [
        ("no/such", {}, "The hub shows no model no/such; check the spelling"),
        (PREVIEW, {"revision": "v9"}, "has no revision v9"),
        ("some/gated", {}, "some/gated wants its terms accepted: do so at http"),
    ],
    ids=["repository", "revision", "gated"],
)
def test_what_the_hub_does_not_give_is_said(
    stand_in: HubStandIn, store: ModelStore, repository: str, options: dict[str, str], reason: str
) -> None:
    stand_in.repositories["some/gated"] = preview(is_gated=True)
    with pytest.raises(HubError, match=reason):
        pull_from(stand_in, store, repository, **options)
    assert store.repositories() == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": b'{"model_type": "llama"}'}, "is no Moondream: .* says 'llama'"),
        ({"config.json": b"not JSON"}, r"config\.json of some/one is no JSON object"),
        ({}, r"holds no config\.json"),
        ({"config.json": b"{}"}, r"not one other \.safetensors file \(none\)"),
        (
            {"config.json": b"{}", "model.safetensors.index.json": b"{}"},
            r"model\.safetensors\.index\.json of some/one is no index",
        ),
    ],
    ids=["family", "config", "no config", "no weights", "index"],
)
def test_a_repository_without_a_moondream_is_refused_before_anything_lies_here(
    stand_in: HubStandIn, store: ModelStore, files: dict[str, bytes], reason: str
) -> None:
    stand_in.repositories["some/one"] = Repository(files=files, commit="c" * 40)
    with pytest.raises(PullError, match=reason):
        pull_from(stand_in, store, "some/one")
    assert store.repositories() == []


def test_a_model_larger_than_the_disk_is_refused_before_anything_lies_here(
    stand_in: HubStandIn, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = stand_in.repositories[PREVIEW].info(PREVIEW)
    shard = next(file for file in listed["siblings"] if file["rfilename"] in SHARDS)
    shard["size"] = 10**18
    monkeypatch.setattr(stand_in.repositories[PREVIEW], "info", lambda _: listed)
    with pytest.raises(PullError, match=r"needs 1000000000\.0 GB, but the disk of .* has"):
        pull_from(stand_in, store)
    assert store.repositories() == []


@pytest.mark.parametrize("name", ["moondream2", "../etc/passwd", "../secret", "a/b/c", ".a/b"])
def test_what_is_no_repository_is_refused(store: ModelStore, name: str) -> None:
    with pytest.raises(PullError, match="is no repository"):
        pull(name, hub=Hub("http://127.0.0.1:9"), store=store, say=print)


def test_a_hub_that_cannot_be_reached_is_said_in_a_sentence(store: ModelStore) -> None:
    with pytest.raises(HubError, match=r"could not be fetched from http://127.0.0.1:9 \("):
        pull(PREVIEW, hub=Hub("http://127.0.0.1:9"), store=store, say=print)
