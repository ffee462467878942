"""`moontune model` as a process: a hub that is a stand-in, and later none, also for `serve`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from server.ready import read_url
from tests import forked
from tests.hub_stand_in import HubStandIn, Repository, run_hub
from trainer.catalog.known import TOKENIZER_REPOSITORY, TOKENIZER_REVISION
from trainer.model.checkpoint import load_model, save_model

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tiny" / "checkpoint"
MODEL = "some/tiny"
CHUNK = 10 << 20
"""What the hub's client writes at once."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in float32, which is a little more than one chunk."""
    directory = tmp_path_factory.mktemp("weights")
    save_model(load_model(TINY), directory, dtype=torch.float32)
    return directory


@pytest.fixture
def stand_in(weights: Path) -> Iterator[HubStandIn]:
    files = {path.name: path.read_bytes() for path in weights.iterdir()}
    tokenizer = {"tokenizer.json": (TINY / "tokenizer.json").read_bytes()}
    repositories = {
        MODEL: Repository(files=files, commit="a" * 40, card={"license": "apache-2.0"}),
        TOKENIZER_REPOSITORY: Repository(files=tokenizer, commit=TOKENIZER_REVISION),
    }
    with run_hub(repositories) as hub:
        yield hub


class CommandLine:
    """`moontune`, with a hub and a models folder of its own."""

    def __init__(self, folder: Path, hub_url: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MOONTUNE_", "HF_"))}
        self._environment = {
            **clean,
            "HF_ENDPOINT": hub_url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "300",  # a busy machine must not look like a broken line
            "MOONTUNE_MODELS_DIR": str(folder / "models"),
            "OMP_NUM_THREADS": "1",
        }
        self.folder = folder

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from server.cli import main; main()", *arguments]
        if "inspect" in arguments:  # which asks no hub; what may ask ours knows it from its start
            command = forked.moontune(*arguments)
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self._environment, "PYTHONPATH": str(ROOT)},
            preexec_fn=_hear_interrupts,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Status, stdout and stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


def _hear_interrupts() -> None:
    """A shell that runs the tests in the background has children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def moontune(tmp_path: Path, stand_in: HubStandIn) -> CommandLine:
    return CommandLine(tmp_path, stand_in.url)


def until_chunk_is_there(folder: Path) -> Path:
    """Wait until a pull has written its first chunk."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob("models/some/tiny/model.safetensors.*.partial"):
            if path.stat().st_size >= CHUNK:
                return path
        time.sleep(0.05)
    raise AssertionError("no chunk came")


def stopped_in_mid_file(
    moontune: CommandLine, stand_in: HubStandIn, end: signal.Signals
) -> tuple[int, int, str]:
    """Begin a pull and end it; gives the bytes that are here, its status and its stderr."""
    stand_in.hold_after = CHUNK + 1000
    pull = moontune.start("model", "pull", MODEL)
    partial = until_chunk_is_there(moontune.folder)
    pull.send_signal(end)
    out, err = pull.communicate(timeout=60)
    assert (out, f"{MODEL}, revision {'a' * 40}" in err) == ("", True)
    return partial.stat().st_size, pull.returncode, err


def ranges_asked(stand_in: HubStandIn) -> list[str | None]:
    return [asked.range for asked in stand_in.asked if asked.name == "model.safetensors"]


def test_an_interrupted_pull_goes_on_and_the_model_is_used_without_a_hub(
    stand_in: HubStandIn, moontune: CommandLine, weights: Path
) -> None:
    held, status, err = stopped_in_mid_file(moontune, stand_in, signal.SIGINT)
    assert status == 130
    assert err.endswith("moontune: Stopped. The same command goes on from here.\n")
    assert moontune.run("model", "pull", MODEL)[0] == 0
    assert ranges_asked(stand_in) == [None, f"bytes={held}-"]
    pulled = moontune.folder / "models" / MODEL / "model.safetensors"
    assert pulled.read_bytes() == (weights / "model.safetensors").read_bytes()

    stand_in.repositories.clear()  # from here on the hub knows nothing
    asked = len(stand_in.asked)
    status, out, _ = moontune.run("model", "list", "--json")
    assert status == 0
    listed = {model["model"]: model for model in json.loads(out)["models"]}
    assert (listed[MODEL]["pulled"], listed[MODEL]["runs_here"]) == ("yes", "yes")
    status, out, _ = moontune.run("model", "list")
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith(MODEL))
    assert line.split()[1:4] == ["yes", "a" * 12, "apache-2.0"]
    server = moontune.start("serve", "--model", MODEL, "--port", "0", "--device", "cpu")
    assert server.stdout is not None
    assert read_url(server.stdout.readline()) is not None
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)
    assert server.returncode == 0
    assert len(stand_in.asked) == asked


def test_a_killed_pull_goes_on_and_leaves_a_record(
    stand_in: HubStandIn, moontune: CommandLine
) -> None:
    held, status, _ = stopped_in_mid_file(moontune, stand_in, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert moontune.run("model", "pull", MODEL)[0] == 0
    assert ranges_asked(stand_in) == [None, f"bytes={held}-"]
    record = json.loads((moontune.folder / "models" / MODEL / "moontune.json").read_text())
    assert (record["repository"], record["revision"]) == (MODEL, "a" * 40)
    assert record["licence"]["name"] == "apache-2.0"
    files = {file["name"] for file in record["files"]}
    assert files == {"config.json", "model.safetensors", "tokenizer.json"}


def test_what_was_never_pulled_is_not_fetched_by_serving(
    stand_in: HubStandIn, moontune: CommandLine
) -> None:
    status, _, err = moontune.run("serve", "--model", MODEL, "--port", "0")
    assert status == 1
    assert f"run `moontune model pull {MODEL}` first" in err
    assert stand_in.asked == []


def test_inspecting_is_told_and_what_is_no_model_ends_with_a_sentence(
    moontune: CommandLine,
) -> None:
    status, out, _ = moontune.run("model", "inspect", str(TINY), "--rank", "8")
    assert status == 0
    assert "family      moondream3" in out
    status, out, _ = moontune.run("model", "inspect", str(TINY), "--rank", "8", "--json")
    assert json.loads(out)["family"] == "moondream3"
    status, out, err = moontune.run("model", "inspect", str(moontune.folder))
    assert (status, out) == (1, "")
    assert err.startswith(f"moontune: {moontune.folder} holds no weights")


def test_without_the_trainers_packages_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *_: None if name == 'torch' else find(name)\n"
        "from server.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "model", "list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "torch cannot be found: pip install 'moontune[trainer]'" in ended.stderr
