"""The server as a process: its lines, lock, port and ends; the worker is a fake without torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.children import CODE_ROOT, module_environment
from server.cli import app as command_line
from server.ready import read_url
from tests import databases
from tests.factories import make_sft_group

pytestmark = pytest.mark.e2e

SERVE = CODE_ROOT / "tests" / "unit" / "server_engine" / "serve_with_fake.py"
KEY = "a-key-for-this-test"
Server = subprocess.Popen[str]
StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers on `tmp_path / "data"`; what still runs at the end is killed."""
    servers: list[Server] = []

    def start(*, port: int = 0, at_start: str = "", data_dir: Path = tmp_path / "data") -> Server:
        url = databases.whole_system_url(data_dir)
        server = subprocess.Popen(
            [sys.executable, str(SERVE), str(data_dir), str(port), at_start],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**module_environment(), **({"MOONTUNE_DATABASE_URL": url} if url else {})},
            text=True,
        )
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()
        server.communicate()


def until_ready(server: Server) -> str:
    assert server.stdout is not None
    line = server.stdout.readline()
    url = read_url(line)
    assert url is not None, line
    return url


def call(url: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"X-Moondream-Auth": KEY})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(url: str, question: str) -> tuple[int, dict[str, Any]]:
    return call(f"{url}/v1/query", {"question": question})


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def until_gone(*pids: int) -> None:
    for _ in range(250):
        if not any(map(is_alive, pids)):
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"some of the processes {pids} live on")


def test_one_line_on_stdout_and_an_orderly_end(start_server: StartServer) -> None:
    server = start_server()
    url = until_ready(server)
    assert call(f"{url}/readyz") == (200, {"status": "ready", "model": "fake"})
    status, answer = ask(url, "pid")
    assert status == 200
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (0, "")
    assert "moontune: loading shard 1 of 1" in err
    assert "Traceback" not in err
    assert not is_alive(int(answer["answer"]))


def test_verbs_find_the_server_of_a_data_directory(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONTUNE_API_KEY", KEY)
    server = start_server()
    url = until_ready(server)
    folder = str(tmp_path / "data")

    def moontune(*words: str, at: str = "--data-dir", place: str = folder) -> Result:
        return CliRunner().invoke(command_line, [*words, at, place])

    def told(*words: str) -> dict[str, Any]:
        return json.loads(moontune(*words, "--json").stdout)

    state = told("status")
    assert (state["url"], state["is_ready"], state["model"]) == (url, True, "fake")
    assert (state["holder"]["pid"], state["num_finetunes"]) == (server.pid, 0)
    assert set(state["waiting"]) == {"inference", "rollouts", "training", "batch"}
    assert state["api_bytes"] > 10 << 20
    assert f"process {server.pid} on" in moontune("status").stdout

    ids = [
        call(f"{url}/v1/tuning/finetunes", {"name": f"f{number}", "rank": 8})[1]["finetune_id"]
        for number in range(101)  # more than one page
    ]
    tuned = ids[0]
    step = {"finetune_id": tuned, "groups": [make_sft_group()]}
    assert call(f"{url}/v1/tuning/train_step", step)[0] == 200
    assert call(f"{url}/v1/tuning/finetunes/{tuned}/checkpoints/save", {})[0] == 200
    assert [f["finetune_id"] for f in told("finetunes", "list")["finetunes"]] == ids
    assert moontune("finetunes", "list", at="--url", place=url).stdout.count("\n") == 102
    shown = told("finetunes", "show", tuned)
    assert (shown["name"], shown["step"], shown["saved_steps"]) == ("f0", 1, [1])
    assert "saved steps  1\n" in moontune("finetunes", "show", tuned).stdout
    assert [c["step"] for c in told("checkpoints", "list", tuned)["checkpoints"]] == [1]
    assert f"{tuned}@1  2" in moontune("checkpoints", "list", tuned).stdout
    assert told("checkpoints", "show", f"{tuned}@1")["model"].endswith(f"/{tuned}@1")
    assert f"moontune export {tuned}@1" in moontune("checkpoints", "show", f"{tuned}@1").stdout

    refused = moontune("checkpoints", "delete", f"{tuned}@7", "--yes")
    assert (refused.exit_code, "saved are: 1." in refused.stderr) == (1, True)
    unsure = moontune("checkpoints", "delete", f"{tuned}@1")
    assert (unsure.exit_code, "[y/N]" in unsure.stderr) == (1, True)
    assert told("checkpoints", "delete", f"{tuned}@1", "--yes") == {"deleted": f"{tuned}@1"}
    assert moontune("finetunes", "delete", tuned, "--yes").stdout.startswith("Finetune 'f0'")
    gone = moontune("finetunes", "show", tuned)
    assert (gone.exit_code, gone.stdout, gone.stderr.count("\n")) == (1, "", 1)

    monkeypatch.setenv("MOONTUNE_API_KEY", "another-key")
    assert KEY not in (stranger := moontune("finetunes", "list")).output
    assert (stranger.exit_code, "The API key is not known" in stranger.stderr) == (1, True)
    assert "Set MOONTUNE_API_KEY" in moontune("status").stdout
    monkeypatch.setenv("MOONTUNE_API_KEY", KEY)
    server.terminate()
    _, err = server.communicate(timeout=20)
    assert "Callers need an API key: the one in MOONTUNE_API_KEY" in err
    assert KEY not in err
    assert moontune("status").exit_code == 1


def test_a_running_call_is_finished_before_the_end(start_server: StartServer) -> None:
    server = start_server()
    url = until_ready(server)
    answers: list[tuple[int, dict[str, Any]]] = []
    calling = threading.Thread(target=lambda: answers.append(ask(url, "wait 3")))
    calling.start()
    threading.Event().wait(1.0)  # long enough to be handed over, on a busy machine too
    server.send_signal(signal.SIGTERM)
    calling.join(20)
    server.communicate(timeout=20)
    assert server.returncode == 0
    ((status, answer),) = answers
    assert (status, answer["answer"]) == (200, "wait 3")


def test_a_second_signal_ends_at_once_and_takes_the_worker_along(
    start_server: StartServer,
) -> None:
    server = start_server()
    url = until_ready(server)
    worker = int(ask(url, "pid")[1]["answer"])
    # A daemon, because its answer never comes.
    threading.Thread(target=lambda: _quietly(lambda: ask(url, "hang")), daemon=True).start()
    threading.Event().wait(1.0)
    server.send_signal(signal.SIGINT)
    threading.Event().wait(0.5)
    assert server.poll() is None
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=5)
    assert server.returncode == 130
    until_gone(worker)


def _quietly(work: Callable[[], object]) -> None:
    try:
        work()
    except OSError:
        return


def test_a_killed_server_leaves_no_child_and_no_lock(start_server: StartServer) -> None:
    server = start_server()
    url = until_ready(server)
    worker = int(ask(url, "pid")[1]["answer"])
    children = [
        int(pid)
        for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    ]
    assert worker in children
    server.kill()
    server.communicate()
    until_gone(*children)
    until_ready(start_server())


def test_a_second_server_on_the_same_data_is_refused_by_name(start_server: StartServer) -> None:
    first = start_server()
    until_ready(first)
    second = start_server()
    out, err = second.communicate(timeout=20)
    assert (second.returncode, out) == (1, "")
    assert f"process {first.pid} on {socket.gethostname()}, started 2" in err
    assert err.count("\n") == 1


def test_a_taken_port_is_one_sentence(start_server: StartServer, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = start_server(port=port, data_dir=tmp_path / "other")
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (1, "")
    assert f"127.0.0.1 port {port} cannot be used: Address already in use" in err
    assert err.count("\n") == 1


def test_a_worker_that_refuses_ends_the_server_with_its_sentence(start_server: StartServer) -> None:
    server = start_server(at_start="exit2")
    out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "moontune: The folder 'x' holds no model."
    assert "Traceback" not in err


def test_while_no_worker_comes_up_the_reason_is_told_and_the_process_lives(
    start_server: StartServer, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start_server(port=port, at_start="exit3")
    assert server.stderr is not None
    while "exit status 3" not in (line := server.stderr.readline()):
        assert line
    url = f"http://127.0.0.1:{port}"
    assert call(f"{url}/healthz")[0] == 200
    status, answer = call(f"{url}/readyz")
    assert (status, answer["error"]["code"]) == (503, "worker_unavailable")
    server.terminate()
    server.communicate(timeout=20)
    assert server.returncode == 0


def test_a_worker_that_is_killed_costs_nobody_an_answer(start_server: StartServer) -> None:
    url = until_ready(start_server())
    pid = int(ask(url, "pid")[1]["answer"])
    os.kill(pid, signal.SIGKILL)
    status, answer = ask(url, "pid")
    assert status == 200
    assert int(answer["answer"]) != pid
