"""`python -m tests.migrations.record COMMIT FOLDER`: record a ledger by the code of a commit.

    python -m tests.migrations.record 0004..0005 FOLDER     a recorded one, upgraded by one revision

The second is for 0005, which came with 0006 and was never the newest of any commit.

A short run of that commit's own server and worker on the micro model, with everything a database
holds: an untrained finetune, a trained one with a saved step, one that started from it where that
was possible, a deleted one, metrics. Kept are the database as SQL and the files that its rows name.
Run once for each schema that was released; what it made is never changed again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config

from server.config import ServerConfig
from server.db.connection import Database
from tests.chaos.micro_checkpoint import write_micro_checkpoint
from tests.migrations.recorded import MIGRATIONS, lay_out

ROOT = Path(__file__).parents[2]
SEED = 7
NUM_STEPS = 3
SAVED_STEP = 2
_URL = re.compile(r"http://127\.0\.0\.1:\d+")
_GROUP = {
    "mode": "sft",
    "request": {"skill": "query", "question": "how many circles are there?"},
    "target": {"answer": "two"},
}


def record(commit: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        code, model, data = (Path(temporary) / name for name in ("code", "micro", "data"))
        code.mkdir()
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
        write_micro_checkpoint(model)
        _run(code, model, data)
        _keep(data, folder, commit)


def _run(code: Path, model: Path, data: Path) -> None:
    words = ["--model", str(model), "--data-dir", str(data), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(code), "MOONTUNE_SEED": str(SEED)}
    argv = [sys.executable, "-m", "server", *words]
    with subprocess.Popen(
        argv, cwd=code, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        found = _URL.search(server.stdout.readline())
        assert found, "the server did not start"
        _use(f"{found[0]}/v1/tuning")
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0


def _use(tuning: str) -> None:
    def post(path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-Moondream-Auth": "key"}
        request = urllib.request.Request(tuning + path, content, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"{}")

    def create(name: str, **more: Any) -> str:
        return post("/finetunes", {"name": name, "rank": 8, **more})["finetune_id"]

    def train(finetune_id: str) -> None:
        post("/train_step", {"finetune_id": finetune_id, "groups": [_GROUP], "lr": 0.01})

    trained, gone = create("trained"), create("gone")
    create("untrained")
    train(gone)
    post(f"/finetunes/{gone}", method="DELETE")
    for step in range(1, NUM_STEPS + 1):
        train(trained)
        if step == SAVED_STEP:
            post(f"/finetunes/{trained}/checkpoints/save", {})
    metrics = {"step": NUM_STEPS, "metrics": {"eval/score": 0.5}}
    post(f"/finetunes/{trained}/metrics", metrics)
    try:
        train(create("begun", from_checkpoint=f"{trained}@{SAVED_STEP}"))
    except urllib.error.HTTPError as error:  # schema 0001 knows no origins
        error.close()


def _keep(data: Path, folder: Path, commit: str) -> None:
    folder.mkdir(parents=True)
    database = sqlite3.connect(data / "moontune.db")
    (folder / "ledger.sql").write_text("\n".join(database.iterdump()) + "\n")
    (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    database.close()
    shutil.copytree(data / "finetunes", folder / "finetunes")
    facts = {"commit": commit, "schema": schema}
    (folder / "recorded.json").write_text(json.dumps(facts, indent=1) + "\n")


def record_upgraded(older: str, schema: str, folder: Path) -> None:
    """A recorded ledger, with the revisions up to this schema and none after it."""
    with tempfile.TemporaryDirectory() as temporary:
        config = ServerConfig(data_dir=Path(temporary) / "data")
        lay_out(older, config)
        database = Database(config.resolved_database_url)
        settings = Config()
        settings.set_main_option("script_location", str(MIGRATIONS))
        with database.writer.connect() as connection, connection.begin():
            settings.attributes["connection"] = connection
            command.upgrade(settings, schema)
        database.close()
        _keep(config.data_dir, folder, f"{older}, upgraded")


if __name__ == "__main__":
    what, target = sys.argv[1], Path(sys.argv[2])
    if ".." in what:
        record_upgraded(*what.split(".."), target)
    else:
        record(what, target)
