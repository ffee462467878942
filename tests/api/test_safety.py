"""Verify, backup and restore, beside a running service."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract import durable
from contract.engine import FileRef
from server.backup import BackupError, back_up, read_backup
from server.cli import app as command_line
from server.config import ServerConfig
from server.data_lock import DataDirectoryError, lock_data_directory
from server.db.files import pinned_paths
from server.db.meta import next_epoch
from server.db.models import Finetune
from server.db.named_files import list_named_files
from server.restore import restore
from server.sweep_lease import reading_all, sweeping
from server.verification import verify
from tests.api.conftest import Serve
from tests.service import Service, until

pytestmark = [pytest.mark.anyio, pytest.mark.database("sqlite")]


async def train(service: Service, name: str = "cars", *, num_steps: int = 3) -> str:
    """A finetune with steps, the second of which is saved."""
    finetune_id = await service.create(name)
    for step in range(1, num_steps + 1):
        assert (await service.train(finetune_id)).status_code == 200
        if step == 2:
            assert (await service.save(finetune_id)).status_code == 200
    await service.settled()
    return finetune_id


def some_file(service: Service, finetune_id: str, ending: str) -> Path:
    folder = service.data_dir / "finetunes" / finetune_id
    return max(path for path in folder.iterdir() if path.name.endswith(ending))


def in_new_folder(service: Service, name: str) -> ServerConfig:
    return service.config.model_copy(update={"data_dir": service.data_dir / name})


async def test_a_manifest_says_of_what_the_weights_are(service: Service) -> None:
    finetune_id = await train(service)
    assert (await service.save(finetune_id)).status_code == 200
    database = service.app.state.services.database

    def manifests(session: object) -> list[dict[str, object]]:
        rows = session.connection().exec_driver_sql(  # type: ignore[attr-defined]
            "SELECT manifest FROM checkpoints ORDER BY step"
        )
        return [json.loads(manifest) for (manifest,) in rows]

    second, third = database.read_blocking(manifests)
    assert (second["step"], second["parent"]) == (2, None)
    assert (third["step"], third["parent"]) == (3, f"{finetune_id}@2")
    assert third["base_model"] == {"name": "tiny", "digest": "d" * 64}
    (weights,) = third["files"]
    assert weights["role"] == "weights"
    assert (service.data_dir / weights["path"]).stat().st_size == weights["num_bytes"]


async def test_what_rows_need_is_what_the_sweeper_keeps(service: Service) -> None:
    for number in range(4):
        await train(service, f"f{number}", num_steps=number)
    deleted = await train(service, "deleted")
    await service.delete(f"/v1/tuning/finetunes/{deleted}")
    database = service.app.state.services.database
    named = {file.file.path for file in database.read_blocking(list_named_files)}
    ids = database.read_blocking(lambda session: session.query(Finetune.id).all())
    pinned = [database.read_blocking(pinned_paths, finetune_id) for (finetune_id,) in ids]
    assert pinned.count(None) == 1  # of the deleted one
    assert named == set().union(*(paths for paths in pinned if paths is not None))
    assert named


async def test_a_good_directory_passes_and_a_left_over_is_only_told(service: Service) -> None:
    finetune_id = await train(service)
    assert verify(service.config).is_good
    left = service.data_dir / "finetunes" / finetune_id / "00000009-x.weights.safetensors"
    left.write_bytes(b"half")
    findings = verify(service.config)
    assert findings.is_good
    assert findings.unnamed == (f"finetunes/{finetune_id}/{left.name}",)


@pytest.mark.parametrize("kind", ["missing", "size", "digest"])
async def test_a_damaged_file_is_found(service: Service, kind: str) -> None:
    finetune_id = await train(service)
    path = some_file(service, finetune_id, ".optimizer.safetensors")
    content = path.read_bytes()
    match kind:
        case "missing":
            path.unlink()
        case "size":
            path.write_bytes(content[:-1])
        case _:
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    (problem,) = verify(service.config).problems
    assert problem.kind == kind
    assert problem.path == f"finetunes/{finetune_id}/{path.name}"
    assert finetune_id in problem.detail
    with pytest.raises(BackupError, match="missing or damaged"):
        back_up(service.config, service.data_dir / "backup")
    with pytest.raises(BackupError, match="not finished"):
        read_backup(service.data_dir / "backup")


async def test_a_manifest_that_disagrees_with_its_row_is_found(service: Service) -> None:
    await train(service)
    database = service.app.state.services.database
    database.write_blocking(
        lambda session: session.connection().exec_driver_sql(
            "UPDATE checkpoints SET manifest = replace(manifest, '\"step\": 2', '\"step\": 3')"
        )
    )
    (problem,) = verify(service.config).problems
    assert problem.kind == "manifest"
    assert "step 3, the row 2" in problem.detail


async def test_a_backup_beside_a_service_becomes_a_service_at_the_same_step(
    service: Service, serve: Serve
) -> None:
    finetune_id = await train(service)
    made = back_up(service.config, service.data_dir / "backup")
    assert read_backup(service.data_dir / "backup") == made
    await service.train(finetune_id)
    restored = in_new_folder(service, "restored")
    assert restore(service.data_dir / "backup", restored).is_good
    async with serve(data_dir=restored.data_dir) as second:
        answer = await second.train(finetune_id)
        assert answer.json()["step"] == 4
        assert (await second.get(f"/v1/tuning/finetunes/{finetune_id}")).status_code == 200


async def test_a_restored_database_has_a_later_epoch(service: Service, serve: Serve) -> None:
    database = service.app.state.services.database
    before = database.write_blocking(next_epoch)
    back_up(service.config, service.data_dir / "backup")
    restored = in_new_folder(service, "restored")
    restore(service.data_dir / "backup", restored)
    async with serve(data_dir=restored.data_dir) as second:
        assert second.app.state.services.database.write_blocking(next_epoch) == before + 2


async def test_a_damaged_backup_is_not_restored(service: Service) -> None:
    finetune_id = await train(service)
    folder = service.data_dir / "backup"
    back_up(service.config, folder)
    path = folder / some_file(service, finetune_id, ".weights.safetensors").relative_to(
        service.data_dir
    )
    path.write_bytes(b"x" * path.stat().st_size)
    restored = in_new_folder(service, "restored")
    with pytest.raises(BackupError, match="damaged"):
        restore(folder, restored)
    assert not (restored.data_dir / "moontune.db").exists()


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
async def test_a_backup_that_leads_out_of_its_folder_is_refused(
    service: Service, tmp_path: Path, kind: str
) -> None:
    finetune_id = await train(service)
    folder = service.data_dir / "backup"
    back_up(service.config, folder)
    inside = folder / some_file(service, finetune_id, ".weights.safetensors").relative_to(
        service.data_dir
    )
    outside = tmp_path / "outside"
    outside.write_bytes(inside.read_bytes())  # its digest is right
    named = {"above": "../outside", "absolute": str(outside), "link": None}[kind]
    if named is None:
        inside.unlink()
        inside.symlink_to(outside)
    else:
        facts = json.loads((folder / "backup.json").read_text())
        (weights,) = [f for f in facts["files"] if folder / f["path"] == inside]
        facts["files"].append({**weights, "path": named})
        (folder / "backup.json").write_text(json.dumps(facts))
    restored = in_new_folder(service, "restored")
    with pytest.raises(BackupError, match="lies outside of it"):
        restore(folder, restored)
    assert not (restored.data_dir / "moontune.db").exists()
    assert outside.is_file()


async def backed_up(service: Service) -> tuple[Path, ServerConfig]:
    """A backup, and where it can be restored."""
    await train(service)
    back_up(service.config, service.data_dir / "backup")
    return service.data_dir / "backup", in_new_folder(service, "restored")


async def test_nobody_serves_a_directory_that_is_being_restored(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, restored = await backed_up(service)
    copy, refused = durable.copy_file, []

    def try_to_serve(file: FileRef, target: Path) -> None:
        with (
            pytest.raises(DataDirectoryError, match="belongs to"),
            lock_data_directory(restored.data_dir),
        ):
            pass
        refused.append(target.name)
        copy(file, target)

    monkeypatch.setattr(durable, "copy_file", try_to_serve)
    assert restore(folder, restored).is_good
    assert refused[-1] == "moontune.db"


async def test_a_database_that_somebody_made_meanwhile_is_not_replaced(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, restored = await backed_up(service)
    copy = durable.copy_file

    def copy_beside_another(file: FileRef, target: Path) -> None:
        copy(file, target)
        (restored.data_dir / "moontune.db").write_bytes(b"theirs")

    monkeypatch.setattr(durable, "copy_file", copy_beside_another)
    with pytest.raises(BackupError, match=r"Somebody made a moontune\.db"):
        restore(folder, restored)
    assert (restored.data_dir / "moontune.db").read_bytes() == b"theirs"


async def test_folders_that_hold_something_are_refused(service: Service) -> None:
    await train(service)
    with pytest.raises(BackupError, match="not empty"):
        back_up(service.config, service.data_dir)
    back_up(service.config, service.data_dir / "backup")
    with pytest.raises(BackupError, match="not empty"):
        restore(service.data_dir / "backup", service.config)


async def test_nothing_is_swept_while_somebody_reads_all_and_it_is_made_good_later(
    service: Service,
) -> None:
    finetune_id, other = await train(service), await train(service, "other")
    before = service.state_files(finetune_id)
    with reading_all(service.data_dir):
        for _ in range(3):
            await service.train(finetune_id)
        await service.settled()
        assert set(before) < set(service.state_files(finetune_id))
    await service.train(other)  # its sweep brings the postponed one along
    await service.settled()
    await service.settled()
    assert len(service.state_files(finetune_id)) == 5  # two states of two files, one saved weights


async def test_a_finetune_without_a_step_lives_so_what_copies_may_need_stays(
    service: Service,
) -> None:
    finetune_id = await service.create()
    folder = service.data_dir / "finetunes" / finetune_id
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "00000009-a1b2c3d4e5f6.weights.safetensors"
    state.write_bytes(b"of later, which a copy may name")
    copy = service.data_dir / "moontune.db.0001.20260101T000000Z.backup"
    copy.write_bytes(b"cannot be read")
    await service.app.state.services.cleanup.sweep_all()
    assert state.exists()
    copy.unlink()
    await service.app.state.services.cleanup.sweep_all()
    assert not state.exists()


async def test_a_sweep_that_was_put_off_is_tried_again_by_itself(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app.state.services.cleanup._postponed, "_seconds", 0.01)
    finetune_id = await train(service)
    with reading_all(service.data_dir):
        await service.delete(f"/v1/tuning/finetunes/{finetune_id}")
        await service.settled()
        await asyncio.sleep(0.05)
        assert service.state_files(finetune_id)
    await until(lambda: not service.state_files(finetune_id))


async def test_sweeps_of_one_process_do_not_keep_each_other_away(tmp_path: Path) -> None:
    with sweeping(tmp_path) as first:
        with sweeping(tmp_path) as second:
            assert (first, second) == (True, True)
        assert _may_sweep_elsewhere(tmp_path) is False
    assert _may_sweep_elsewhere(tmp_path) is True


def _may_sweep_elsewhere(data_dir: Path) -> bool:
    """Whether another process may."""
    script = "import sys; from pathlib import Path; from server.sweep_lease import sweeping\n"
    script += "with sweeping(Path(sys.argv[1])) as may: print(may)"
    command = [sys.executable, "-c", script, str(data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


async def test_the_commands_say_what_they_did_by_their_exit_status(service: Service) -> None:
    finetune_id = await train(service)
    run = CliRunner().invoke
    data, backup, new = (str(service.data_dir / name) for name in (".", "backup", "new"))
    answer = run(command_line, ["verify", "--data-dir", data, "--json"])
    assert (answer.exit_code, json.loads(answer.stdout)["is_good"]) == (0, True)
    assert run(command_line, ["backup", backup, "--data-dir", data]).exit_code == 0
    assert run(command_line, ["restore", backup, "--data-dir", new]).exit_code == 0
    assert run(command_line, ["restore", backup, "--data-dir", new]).exit_code == 1
    some_file(service, finetune_id, ".weights.safetensors").unlink()
    answer = run(command_line, ["verify", "--data-dir", data])
    assert answer.exit_code == 1
    assert "NOT all" in answer.stdout
    assert run(command_line, ["verify", "--data-dir", "/nonexistent"]).exit_code == 2
