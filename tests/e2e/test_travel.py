"""Adapters travel between servers: download, export, import, and starting from a checkpoint."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx
import moondream as md
import pytest
import torch

from examples.shapes import draw_scene
from server.config import ServerConfig
from server.db import migrate
from tests import databases, forked
from tests.forked import ForkingServer
from tests.live import ROOT, LiveServer

pytestmark = pytest.mark.e2e

QUESTION = "what color is the shape?"
GREEDY = {"temperature": 0.0, "max_tokens": 8}
SCENES = range(40, 46)


def moontune(*words: object, data_dir: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would, beside a server of this directory or without one."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MOONTUNE_")}
    return subprocess.run(
        forked.moontune(*map(str, words), "--data-dir", str(data_dir)),
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1", **databases.environment_of(data_dir)},
        capture_output=True,
        text=True,
        timeout=180,
    )


def answers(server: LiveServer, model: str | None) -> list[str]:
    vision = md.vl(endpoint=f"{server.endpoint}/v1", model=model)
    return [
        vision.query(draw_scene(seed).image, QUESTION, settings=GREEDY)["answer"] for seed in SCENES
    ]


def teach(finetune, steps: int) -> None:
    """Twelve steps are enough to have everything called blue."""
    for step in range(steps):
        groups = []
        for seed in range(4 * step, 4 * step + 4):
            request = {"skill": "query", "question": QUESTION, "image": draw_scene(seed).image}
            groups.append({"mode": "sft", "request": request, "target": {"answer": "blue"}})
        finetune.train_step(groups, lr=5e-3)


def test_a_finetune_moves_to_another_server_in_every_format(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    with ForkingServer(home, "--seed", "1") as server:
        finetune = md.ft("k", name="traveller", rank=8, endpoint=server.tuning)
        teach(finetune, 12)
        finetune.save_checkpoint()
        taught = answers(server, finetune.model(12))
        assert set(taught) == {"blue"} != set(answers(server, None))
        name = f"{finetune.finetune_id}@12"
        link = server.get(f"/v1/tuning/finetunes/{finetune.finetune_id}/checkpoints/12/download")
        downloaded = httpx.get(link.json()["url"])
        assert downloaded.status_code == 200
        (tmp_path / "downloaded.pt").write_bytes(downloaded.content)
        body = {"name": "follower", "rank": 8, "from_checkpoint": name}
        follower = server.post("/v1/tuning/finetunes", body).json()["finetune_id"]
        rollout = md.ft("k", finetune_id=follower, endpoint=server.tuning).rollouts(
            "query", image=draw_scene(SCENES[0]).image, question=QUESTION, settings=GREEDY
        )
        assert rollout["rollouts"][0]["output"]["answer"] == taught[0]
        # beside the running server
        told = moontune("export", name, tmp_path / "peft", "--to", "peft", data_dir=home)
        assert told.returncode == 0, told.stderr
        assert told.stdout.startswith(
            f"Written to {tmp_path / 'peft'}. Logits of 5 fixed questions"
        )

    merged = moontune("export", name, tmp_path / "merged", "--to", "merged", data_dir=home)
    assert merged.returncode == 0, merged.stderr
    with ForkingServer(tmp_path / "whole", "--model", str(tmp_path / "merged")) as server:
        assert answers(server, None) == taught

    content = torch.load(tmp_path / "downloaded.pt", weights_only=True)
    assert (content["finetune_id"], content["step"]) == (finetune.finetune_id, 12)
    ids = {}
    for label, source in (("file", "downloaded.pt"), ("peft", "peft")):
        done = moontune("import", tmp_path / source, "--name", label, data_dir=away)
        assert done.returncode == 0, done.stderr
        ids[label] = done.stdout.rpartition("moondream3-preview/")[2].strip()
    with ForkingServer(away) as server:
        for model_id in ids.values():
            assert answers(server, f"moondream3-preview/{model_id}") == taught
        arrived = md.ft("k", name="peft", rank=8, endpoint=server.tuning)
        assert arrived.finetune_id == ids["peft"].removesuffix("@0")
        teach(arrived, 1)
        again = moontune("import", tmp_path / "peft", "--name", "beside", data_dir=away)
        assert again.returncode == 0, again.stderr
        listed = [f["name"] for f in server.get("/v1/tuning/finetunes").json()["finetunes"]]
        assert listed == ["file", "peft", "beside"]
        taken = moontune("import", tmp_path / "peft", "--name", "peft", data_dir=away)
        assert (taken.returncode, "choose another --name" in taken.stderr) == (1, True)


@pytest.mark.database("sqlite")  # what a data directory without a server is, is the question
def test_what_cannot_travel_says_why(tmp_path: Path) -> None:
    data = tmp_path / "data"
    nowhere = moontune("export", "0" * 26 + "@3", tmp_path / "out", data_dir=tmp_path / "no")
    assert nowhere.returncode == 1
    assert "no is not the data directory of a server; name it with --data-dir." in nowhere.stderr
    assert not (tmp_path / "no").exists()
    migrate.upgrade(ServerConfig(data_dir=data))
    nothing = moontune("export", "0" * 26 + "@3", tmp_path / "out", data_dir=data)
    assert nothing.returncode == 1
    assert nothing.stderr == ("moontune: There is no such finetune. It may have been deleted.\n")
    assert not (tmp_path / "out").exists()
    odd = moontune("export", "latest", tmp_path / "out", data_dir=data)
    assert "write FINETUNE_ID@STEP" in odd.stderr
    (tmp_path / "junk.pt").write_bytes(b"junk")
    junk = moontune("import", tmp_path / "junk.pt", "--name", "a", data_dir=data)
    assert junk.returncode == 1
    assert "junk.pt cannot be read" in junk.stderr
    assert list((data / "finetunes").glob("*/*")) == []
    space = moontune("import", tmp_path / "junk.pt", "--name", "a b", data_dir=data)
    assert "for instance 'a-b'" in space.stderr
