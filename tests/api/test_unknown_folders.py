"""Folders of finetunes that no row knows: what a killed create or import leaves is removed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from contract import durable
from server import travel
from server.services.cleanup import Cleanup
from server.sweep_lease import reading_all, sweeping
from tests.service import Service

pytestmark = pytest.mark.anyio
UNKNOWN = "01M8K0H869W9CHMZ6Z87V8DH9P"
STEM = "00000000-a1b2c3d4e5f6"
FIRST = f"{STEM}.weights.safetensors"


def cleanup(service: Service) -> Cleanup:
    return service.app.state.services.cleanup


def leave(service: Service, *names: str) -> Path:
    folder = service.data_dir / "finetunes" / UNKNOWN
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("names", [(FIRST,), (f".{FIRST}.tmp",), ()])
async def test_what_a_killed_create_left_is_removed_at_the_next_start(
    service: Service, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = await service.create()
    await service.train(kept)
    before = service.state_files(kept)
    folder = leave(service, *names)
    await cleanup(service).sweep_all()
    assert not folder.exists()
    assert service.state_files(kept) == before
    assert "unknown_finetune_folder_removed" in capsys.readouterr().out


async def test_it_stays_while_an_import_may_be_at_it(service: Service) -> None:
    await service.create()
    folder = leave(service, FIRST)
    with reading_all(service.data_dir):
        await cleanup(service).sweep_all()
    assert folder.exists()
    await cleanup(service).sweep_all()
    assert not folder.exists()


async def test_what_was_trained_stays_whatever_the_rows_say(service: Service) -> None:
    await service.create()
    folder = leave(service, FIRST, "00000001-a1b2c3d4e5f6.weights.safetensors")
    await cleanup(service).sweep_all()
    assert len(list(folder.iterdir())) == 2


async def test_everything_stays_beside_a_database_that_knows_nothing(service: Service) -> None:
    folder = leave(service, FIRST)
    await cleanup(service).sweep_all()
    assert folder.exists()


async def test_an_import_keeps_the_sweeper_away_until_its_row_is_there(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    insert = travel._insert

    def look() -> None:
        with sweeping(service.data_dir) as may_remove:
            seen.append(may_remove)

    def train(_verb: str, _config: Any, facts: dict[str, Any], *_flags: str) -> dict[str, Any]:
        look()
        weights = durable.write_file(facts["weights-path"], b"x")
        return {
            "weights": asdict(weights),
            "model": {"name": "tiny", "digest": "0" * 64},
            "rank": 8,
            "source_digest": "1" * 64,
            "manifest": {"agreement": {}},
        }

    def insert_last(session: Any, *words: Any) -> None:
        insert(session, *words)
        look()

    monkeypatch.setattr(travel, "_run_trainer", train)
    monkeypatch.setattr(travel, "_insert", insert_last)
    arrived = travel.import_adapter(service.config, Path("adapter"), name="brought")
    assert seen == [False, False]
    await cleanup(service).sweep_all()
    assert len(service.state_files(arrived.finetune_id)) == 1
