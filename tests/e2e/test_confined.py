"""The server under what deploy/moontune.service demands, as far as no running systemd is needed.

Another user without any capability, no new privileges, and a tree that is read-only but for its
state directory. Devices and system calls are systemd's own part, and not tried here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import moondream as md
import pytest

from tests.live import READY, ROOT

NOBODY = 65534
STATE = "/srv"
"""Where the state directory is put in; any folder that is there."""

CONFINE = f"""
mount --bind "$1" {STATE} && mount -o remount,bind,ro / || exit 99
for folder in "$2" /tmp /var; do
  ! touch "$folder/moontune-was-here" 2>/dev/null || {{ rm "$folder/moontune-was-here"; exit 98; }}
done
user="$3"; shift 3
exec setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all -- "$@"
"""


def _may_mount() -> bool:
    """Whether this root has CAP_SYS_ADMIN, which containers usually keep from theirs."""
    trying = ["unshare", "--mount", "true"]
    return subprocess.run(trying, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts are made by root"),
    pytest.mark.skipif(
        shutil.which("unshare") is None or shutil.which("setpriv") is None,
        reason="unshare and setpriv (util-linux) are not installed",
    ),
    pytest.mark.skipif(
        os.geteuid() == 0 and shutil.which("unshare") is not None and not _may_mount(),
        reason="this root may not make a mount namespace (CAP_SYS_ADMIN)",
    ),
]


def test_a_step_is_trained_and_saved_with_one_writable_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for folder in (state, state / "tmp"):
        folder.mkdir()
    user = NOBODY if _may_run(NOBODY) else 0  # root without capabilities owns what it owns
    for folder in (state, state / "tmp"):
        os.chown(folder, user, user)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": STATE,
        "TMPDIR": f"{STATE}/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MOONTUNE_MODEL": "tiny",
        "MOONTUNE_PORT": "0",
        "MOONTUNE_DATA_DIR": f"{STATE}/data",
        "MOONTUNE_MODELS_DIR": f"{STATE}/models",
    }
    serve = [sys.executable, "-P", "-m", "server"]
    log = tmp_path / "stderr.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", CONFINE, "sh", state, ROOT, str(user), *serve],
            cwd=STATE,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line and process.wait() == 99:
            pytest.skip("no mounts can be made here")
        ready = READY.search(line)
        assert ready is not None, log.read_text()
        assert _status(process.pid)["NoNewPrivs"] == "1"
        assert int(_status(process.pid)["CapEff"], 16) == 0
        url = f"http://127.0.0.1:{ready[1]}"
        ft = md.ft("none", name="confined", rank=8, endpoint=f"{url}/v1/tuning")
        request = {"skill": "query", "question": "Who are you?"}
        group = {"mode": "sft", "request": request, "target": {"answer": "A moon."}}
        assert ft.train_step([group], lr=1e-3)["step"] == 1
        saved = ft.save_checkpoint()["checkpoint"]["step"]
        link = f"{url}/v1/tuning/finetunes/{ft.finetune_id}/checkpoints/{saved}/download"
        file = httpx.get(httpx.get(link, timeout=60.0).json()["url"], timeout=60.0)
        assert file.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60.0) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    assert (state / "data" / "moontune.db").stat().st_uid == user


def _may_run(user: int) -> bool:
    """Whether a user may read the interpreter and the code, which may lie in root's home."""
    trying = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
    trying += ["sh", "-c", '"$1" -c "" && ls "$2"', "sh", sys.executable, str(ROOT / "server")]
    return subprocess.run(trying, capture_output=True, check=False).returncode == 0


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
