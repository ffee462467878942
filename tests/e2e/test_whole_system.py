"""Both processes, the database and the tiny model: restarts, crashes, seeds, refusals, learning."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import httpx
import moondream as md
import pytest

from examples.shapes import draw_scene
from tests import databases
from tests.forked import ForkingServer, moontune
from tests.live import ROOT, LiveServer

pytestmark = pytest.mark.e2e

GREEDY = {"temperature": 0.0, "max_tokens": 8}


def sft_group(seed: int, answer: str = "teal") -> dict:
    picture = draw_scene(seed, num_shapes=(1, 1), colors=("teal",)).image
    request = {"skill": "query", "question": "what color is the shape?", "image": picture}
    return {"mode": "sft", "request": request, "target": {"answer": answer}}


def rl_group(finetune, seed: int) -> dict:
    scene = draw_scene(seed)
    boxes = [
        dict(zip(("x_min", "y_min", "x_max", "y_max"), shape.box, strict=True))
        for shape in scene.shapes
    ]
    answer = finetune.rollouts(
        "detect",
        image=scene.image,
        object="shape",
        num_rollouts=4,
        ground_truth={"boxes": boxes},
    )
    return {
        "mode": "rl",
        "request": answer["request"],
        "rollouts": answer["rollouts"],
        "rewards": answer["rewards"],
    }


def newest_weights(data_dir: Path, finetune_id: str) -> bytes:
    return max((data_dir / "finetunes" / finetune_id).glob("*.weights.safetensors")).read_bytes()


def worker_pid(server_pid: int) -> int:
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(server_pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return next(int(line.split()[0]) for line in listed.splitlines() if "trainer" in line)


def test_within_a_minute_of_one_command_its_banner_has_trained_as_pasted(tmp_path: Path) -> None:
    began = time.monotonic()
    with LiveServer(tmp_path / "data", MOONTUNE_API_KEY="some-long-secret") as server:
        lines = (tmp_path / "data" / "stderr.log").read_text().splitlines()
        (key_state,) = (line for line in lines if line.startswith("Callers need an API key"))
        assert "the one in MOONTUNE_API_KEY" in key_state
        pasted = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
        assert len(pasted) == 6
        ended = subprocess.run(
            [sys.executable, "-c", "\n".join(pasted)],
            env={**os.environ, "MOONTUNE_API_KEY": "some-long-secret"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert time.monotonic() - began < 60
        assert ended.stdout.splitlines()[0] == "[1, 2, 3, 4]", ended.stderr
        model = ended.stdout.split()[-1]
        answer = httpx.post(
            f"{server.endpoint}/v1/query",
            json={"model": model, "question": "Who are you?", "settings": GREEDY},
            headers={"X-Moondream-Auth": "some-long-secret"},
            timeout=60,
        )
        assert answer.status_code == 200
        assert "some-long-secret" not in "\n".join([*lines, server.ready_line])
        port = server.endpoint.rpartition(":")[2]
        doctor = ["doctor", "--json", "--data-dir", str(tmp_path / "data"), "--port", port]
        used = databases.environment_of(server.data_dir)
        examined = subprocess.run(
            [sys.executable, "-c", "from server.cli import main; main()", *doctor],
            env={**os.environ, "MOONTUNE_API_KEY": "some-long-secret", **used},
            capture_output=True,
            text=True,
            check=False,
        )
        found = {f["check"]: f["level"] for f in json.loads(examined.stdout)["findings"]}
        healthy = ("address", "exposure", "lock", "database", "packages", "torch", "model")
        assert {check: found[check] for check in healthy} == dict.fromkeys(healthy, "ok")
        assert "some-long-secret" not in examined.stdout + examined.stderr


def test_training_goes_on_at_the_next_step_after_a_restart(tmp_path: Path) -> None:
    server = ForkingServer(tmp_path / "data")
    with server:
        finetune = md.ft("k", name="restarted", rank=8, endpoint=server.tuning)
        for seed in range(2):
            finetune.train_step([sft_group(seed)], lr=2e-3)
        finetune.save_checkpoint()
        picture = draw_scene(7).image
        before = md.vl(endpoint=f"{server.endpoint}/v1", model=finetune.model(2)).query(
            picture, "what color is the shape?", settings=GREEDY
        )
        assert server.stop() == 0
    with server:
        again = md.ft("k", name="restarted", rank=8, endpoint=server.tuning)
        assert again.finetune_id == finetune.finetune_id
        after = md.vl(endpoint=f"{server.endpoint}/v1", model=again.model(2)).query(
            picture, "what color is the shape?", settings=GREEDY
        )
        assert after["answer"] == before["answer"]
        assert again.train_step([sft_group(3)], lr=2e-3)["step"] == 3
    made = [path for path in server.data_dir.rglob("*") if path.name != "stderr.log"]  # ours
    assert any(path.name.endswith(".weights.safetensors") for path in made)
    assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_the_same_seed_gives_the_same_rollouts_and_bit_identical_weights(tmp_path: Path) -> None:
    outcomes = []
    for run, kind in (("first", LiveServer), ("second", ForkingServer)):  # one of them cold
        with kind(tmp_path / run, "--seed", "5") as server:
            finetune = md.ft("k", name=f"seeded-{run}", rank=8, endpoint=server.tuning)
            rollouts = []
            for step in range(10):
                group = rl_group(finetune, step)
                rollouts.append([r["coords"] for r in group["rollouts"]])
                result = finetune.train_step([group, sft_group(step)], lr=2e-3)
            assert result["step"] == 10
            weights = newest_weights(tmp_path / run, finetune.finetune_id)
            outcomes.append((rollouts, _tensor_digest(weights)))
    assert outcomes[0] == outcomes[1]


def _tensor_digest(file: bytes) -> str:
    """Of the tensors alone: the header names the finetune, whose id is random."""
    header_length = int.from_bytes(file[:8], "little")
    return hashlib.sha256(file[8 + header_length :]).hexdigest()


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    with ForkingServer(tmp_path / "data") as server:
        finetune = md.ft("k", name="survivor", rank=8, endpoint=server.tuning)
        assert finetune.train_step([sft_group(1)], lr=2e-3)["step"] == 1
        os.kill(worker_pid(server.pid), signal.SIGKILL)
        assert finetune.train_step([sft_group(2)], lr=2e-3)["step"] == 2
        assert finetune.rollouts("query", question="hello?")["rollouts"][0]["policy_step"] == 2


def test_an_unseen_word_is_taught_by_examples(tmp_path: Path) -> None:
    with ForkingServer(tmp_path / "data", "--seed", "1") as server:
        finetune = md.ft("k", name="word", rank=8, endpoint=server.tuning)

        def share_of_teal() -> float:
            answers = [
                finetune.rollouts(
                    "query",
                    image=draw_scene(2**41 + i, num_shapes=(1, 1), colors=("teal",)).image,
                    question="what color is the shape?",
                    settings=GREEDY,
                )["rollouts"][0]["output"]["answer"]
                for i in range(20)
            ]
            return answers.count("teal") / len(answers)

        assert share_of_teal() < 0.2
        for step in range(30):
            finetune.train_step([sft_group(8 * step + i) for i in range(8)], lr=1e-2)
        assert share_of_teal() > 0.8


def test_a_refused_step_changes_nothing(tmp_path: Path) -> None:
    with ForkingServer(tmp_path / "data") as server:
        finetune = md.ft("k", name="refused", rank=8, endpoint=server.tuning)
        finetune.train_step([sft_group(1)], lr=2e-3)
        before = newest_weights(tmp_path / "data", finetune.finetune_id)
        good = {"request": {"skill": "query", "question": "why?"}, "target": {"answer": "so"}}
        bad = {
            "mode": "rl",
            "request": {"skill": "query", "question": "why?"},
            "rollouts": [{"answer_tokens": [99999]}],
            "rewards": [1.0],
        }
        answer = server.post(
            "/v1/tuning/train_step",
            {"finetune_id": finetune.finetune_id, "groups": [good, bad]},
        )
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][:3] == ["body", "groups", 1]
        assert newest_weights(tmp_path / "data", finetune.finetune_id) == before
        shown = server.get(f"/v1/tuning/finetunes/{finetune.finetune_id}").json()
        assert shown["finetune"]["step"] == 1


def test_a_damaged_state_is_refused_once_and_taken_again_when_it_is_mended(tmp_path: Path) -> None:
    with ForkingServer(tmp_path / "data") as server:
        finetune = md.ft("k", name="damaged", rank=8, endpoint=server.tuning)
        finetune.train_step([sft_group(0)], lr=2e-3)
        folder = server.data_dir / "finetunes" / finetune.finetune_id
        weights = max(folder.glob("*.weights.safetensors"))
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.kill(worker_pid(server.pid), signal.SIGKILL)  # the next one has to read it
        for call in (
            lambda: finetune.train_step([sft_group(1)], lr=2e-3),
            lambda: finetune.rollouts("query", image=draw_scene(1).image, question="?"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                call()
            assert refused.value.code == 409  # any 5xx, and the SDK would have sent it again
            body = json.loads(refused.value.read())
            assert body["error"]["code"] == "state_damaged"
            assert str(tmp_path) not in body["message"]
        verified = subprocess.run(
            moontune("verify", "--data-dir", str(server.data_dir)),
            env={**os.environ, **databases.environment_of(server.data_dir)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert verified.returncode == 1
        assert weights.name in verified.stdout
        weights.write_bytes(whole)
        assert finetune.train_step([sft_group(1)], lr=2e-3)["step"] == 2


def test_health_tells_the_process_from_the_model(tmp_path: Path) -> None:
    with ForkingServer(tmp_path / "data") as server:
        assert server.get("/healthz").status_code == 200
        assert server.get("/readyz").status_code == 200
        assert server.ready_line.startswith("moontune ready")


def test_a_key_guards_every_call(tmp_path: Path) -> None:
    with ForkingServer(tmp_path / "data", MOONTUNE_API_KEY="secret") as server:
        url = f"{server.tuning}/finetunes"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"X-Moondream-Auth": "secret"}).status_code == 200
        assert httpx.get(url, headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--host", "0.0.0.0", "--model", "tiny"), "MOONTUNE_API_KEY"),
        (("--model", "no/such/folder"), "no/such/folder"),
    ],
    ids=["open beyond loopback", "no model"],
)
def test_what_cannot_work_is_said_in_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    ended = subprocess.run(
        moontune("serve", "--port", "0", "--data-dir", str(tmp_path), *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode in (1, 2)
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
