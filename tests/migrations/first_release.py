"""A tuning run by the official SDK that begins under an older release and goes on under this one.

    python -m tests.migrations.first_release MOONTUNE FOLDER

records its first half by the `moontune` of an environment that has the older release, on the micro
model: two finetunes, one taught answers, one by rewards, a saved step of each, metrics. Kept are
the database as SQL, the files, what the SDK saw (`seen.json`), and what that release itself did
next: the weights after one more step of each (`next/`). Made once; what it made is never changed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import moondream as md
from PIL import Image

from server.config import DATABASE_FILE
from tests.chaos.micro_checkpoint import write_micro_checkpoint
from tests.live import LiveServer
from tests.micro import pictures

SEED = "7"
LEARNING_RATE = 0.05
RECORDED = Path(__file__).with_name("first_release")
"""What the first code made that had a wheel."""

LEDGER, SEEN, NEXT = "ledger.sql", "seen.json", "next"
RANK = 8
STEPS = {"answers": 3, "rewards": 1}
SAVED = {"answers": 2, "rewards": 1}
"""Of one the step before the newest, of the other the newest."""

DRAWN = {"temperature": 1.0, "max_tokens": 8}


class OlderRelease(LiveServer):
    """The same, by an installed program."""

    def __init__(self, program: Path, data_dir: Path, *arguments: str):
        super().__init__(data_dir, *arguments)
        self._program = program
        self.folder = data_dir.parent

    @property
    def program(self) -> Sequence[str]:
        return (str(self._program), "serve")


class Tuning:
    """What one script does with its two finetunes; they are found again by their names."""

    def __init__(self, server: LiveServer):
        self._server = server
        self._finetunes = {
            name: md.ft("k", name=name, rank=RANK, endpoint=server.tuning) for name in STEPS
        }

    def begin(self) -> None:
        """The steps before the upgrade."""
        answers, rewards = self._finetunes.values()
        for step in range(1, STEPS["answers"] + 1):
            answers.train_step([_told()], lr=LEARNING_RATE)
            if step == SAVED["answers"]:
                answers.save_checkpoint()
        answers.log_metrics(STEPS["answers"], {"eval/score": 0.5})
        for _ in range(STEPS["rewards"]):
            rewards.train_step([self.rewarded()], lr=LEARNING_RATE)
        rewards.save_checkpoint()

    def rewarded(self) -> dict[str, Any]:
        """Rollouts of `rewards`, judged in a way that prefers some."""
        answer = self._finetunes["rewards"].rollouts(
            "point", image=_picture(), object="red circle", num_rollouts=4, settings=DRAWN
        )
        rewards = [float(index % 2) for index in range(4)]
        return {
            "mode": "rl",
            "request": answer["request"],
            "rollouts": answer["rollouts"],
            "rewards": rewards,
        }

    def go_on(self, rewarded: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """One more step of each; the answers by name."""
        groups = {"answers": _told(), "rewards": rewarded}
        return {
            name: dict(finetune.train_step([groups[name]], lr=LEARNING_RATE))
            for name, finetune in self._finetunes.items()
        }

    def look(self) -> dict[str, Any]:
        """What the SDK and the routes tell of both, by name; answers of saved steps are greedy."""
        return {name: self._look_at(finetune) for name, finetune in self._finetunes.items()}

    def _look_at(self, finetune: Any) -> dict[str, Any]:
        address = f"/v1/tuning/finetunes/{finetune.finetune_id}"
        metrics = self._server.get(f"{address}/metrics").json()["metrics"]
        model = finetune.model(SAVED[finetune.name])
        asked = md.vl(endpoint=f"{self._server.endpoint}/v1", model=model)
        picture = _picture()
        return {
            "finetune_id": finetune.finetune_id,
            "step": self._server.get(address).json()["finetune"]["step"],
            "saved": [row["step"] for row in finetune.list_checkpoints()["checkpoints"]],
            "metrics": [[row["step"], row["name"], row["value"]] for row in metrics],
            "points": asked.point(picture, "red circle")["points"],
            "boxes": asked.detect(picture, "red circle")["objects"],
        }


def _told() -> dict[str, Any]:
    request = {"skill": "query", "question": "what is red?", "image": _picture()}
    return {"mode": "sft", "request": request, "target": {"answer": "the circle"}}


def _picture() -> Image.Image:
    noise = pictures()[0]
    return Image.frombytes("RGB", (noise.width, noise.height), noise.data)


def newest_weights(data_dir: Path, finetune_id: str) -> Path:
    """The weights of the newest step; steps are the first of a file's name."""
    return max((data_dir / "finetunes" / finetune_id).glob("*.weights.safetensors"))


def lay_out(data_dir: Path) -> dict[str, Any]:
    """Make the data directory that the older release left; returns what was seen of it."""
    shutil.copytree(RECORDED / "finetunes", data_dir / "finetunes")
    with closing(sqlite3.connect(data_dir / DATABASE_FILE)) as database:
        database.executescript((RECORDED / LEDGER).read_text())
    return json.loads((RECORDED / SEEN).read_text())


def record(program: Path, folder: Path) -> None:
    """Run the first half, keep what it left, then let that release go on by itself."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        model, data = Path(temporary) / "micro", Path(temporary) / "data"
        write_micro_checkpoint(model)
        server = OlderRelease(program, data, "--model", str(model), "--seed", SEED)
        with server:
            tuning = Tuning(server)
            tuning.begin()
            seen = {"before": tuning.look()}
        with closing(sqlite3.connect(data / DATABASE_FILE)) as database:
            (folder / LEDGER).write_text("\n".join(database.iterdump()) + "\n")
        shutil.copytree(data / "finetunes", folder / "finetunes")
        with server:
            tuning = Tuning(server)
            seen["rewarded"] = tuning.rewarded()
            seen["after"] = tuning.go_on(seen["rewarded"])
            (folder / NEXT).mkdir()
            for name, told in seen["before"].items():
                weights = newest_weights(data, told["finetune_id"])
                shutil.copy(weights, folder / NEXT / f"{name}.safetensors")
        (folder / SEEN).write_text(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]))
