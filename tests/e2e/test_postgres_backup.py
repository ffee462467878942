"""The lines of docs/operations.md that back up and restore PostgreSQL, as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import moondream as md
import pytest

from tests import postgres
from tests.docs.commands import lines_of
from tests.docs.pages import blocks_of
from tests.forked import ForkingServer

pytestmark = pytest.mark.e2e

PAGE_URL = "postgresql://moontune@db.example/"
SFT = {
    "mode": "sft",
    "request": {"skill": "query", "question": "Who are you?"},
    "target": {"answer": "A moon."},
}


def block_with(program: str) -> list[str]:
    """The lines of the only block that begins with this program, `moontune serve` left out."""
    (block,) = (
        block
        for block in blocks_of("docs/operations.md")
        if block.language == "sh" and block.code.startswith(program)
    )
    return [line for line in lines_of(block.code) if "moontune serve" not in line]


def test_a_dump_and_a_copy_bring_back_what_was_there_and_the_sdk_goes_on(tmp_path: Path) -> None:
    if (reason := postgres.why_not()) is not None:
        pytest.skip(reason)
    server = postgres.start_server()
    server.create(name="moontune")

    def follow(lines: list[str]) -> None:
        script = "\n".join(lines).replace(f"{PAGE_URL}restored", f"'{server.url('restored')}'")
        assert PAGE_URL not in script
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MOONTUNE_")}
        path = [str(server.programs), str(Path(sys.executable).parent), clean["PATH"]]
        names = {"PGHOST": str(server.folder), "PGUSER": "moontune", "PATH": ":".join(path)}
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=tmp_path,
            env={**clean, **names},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    with ForkingServer(tmp_path / "data", MOONTUNE_DATABASE_URL=server.url("moontune")) as live:
        finetune = md.ft("k", name="kept", rank=8, endpoint=live.tuning)
        for _ in range(2):
            finetune.train_step([SFT])
        finetune.save_checkpoint()
    follow(block_with("pg_dump"))
    with ForkingServer(tmp_path / "data", MOONTUNE_DATABASE_URL=server.url("moontune")) as live:
        again = md.ft("k", finetune_id=finetune.finetune_id, endpoint=live.tuning)
        for _ in range(3):  # after two, states that the dump names are gone from the directory
            assert again.train_step([SFT])["step"] > 2
    follow(block_with("createdb --owner=moontune restored"))
    restored = {"MOONTUNE_DATABASE_URL": server.url("restored")}
    with ForkingServer(tmp_path / "restored-data", **restored) as live:
        again = md.ft("k", finetune_id=finetune.finetune_id, endpoint=live.tuning)
        assert again.train_step([SFT])["step"] == 3
        answer = md.vl(endpoint=f"{live.endpoint}/v1", model=again.model(2)).query(
            question="Who are you?"
        )
        assert answer["answer"]
