"""The ready line, the data directory's lock, resources, and the command line's refusals."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from contract.engine import ModelInfo
from server import resources
from server.cli import app
from server.config import ServerConfig
from server.data_lock import DataDirectoryError, find_holder, lock_data_directory
from server.ready import banner, base_url, read_url, ready_json, ready_line

MODEL = ModelInfo(
    name="tiny",
    family="moondream3",
    digest="0" * 64,
    device="cpu",
    dtype="float32",
    num_parameters=2_630_000,
    max_context=64,
    skills=("query",),
    tunable_skills=("query",),
)


def test_the_ready_line_says_what_is_served_and_can_be_read_back() -> None:
    line = ready_line("http://127.0.0.1:8000", MODEL)
    assert line == (
        "moontune ready: http://127.0.0.1:8000 · model tiny (moondream3, 2.6M parameters, cpu"
        " float32) · SDK endpoint http://127.0.0.1:8000/v1/tuning"
    )
    assert read_url(line + "\n") == "http://127.0.0.1:8000"
    assert read_url("moontune: loading") is None


def test_the_banner_says_who_may_call_and_never_the_key() -> None:
    url = "http://127.0.0.1:8000"
    loopback = banner(ServerConfig(), url, MODEL, is_open=True)
    assert loopback.result == ready_line(url, MODEL)
    assert loopback.advice[0] == "No API key is needed; only this machine can call."
    behind = ServerConfig(public_url="https://tune.example", allow_open=True)
    proxied = banner(behind, url, MODEL, is_open=True)
    assert "EVERYBODY who reaches MOONTUNE_PUBLIC_URL" in proxied.advice[0]
    exposed = banner(ServerConfig(host="0.0.0.0", allow_open=True), url, MODEL, is_open=True)
    assert "EVERYBODY" in exposed.advice[0]
    config = ServerConfig(api_key=SecretStr("canary-3f9a"))
    keyed = banner(config, url, MODEL, is_open=False)
    assert "MOONTUNE_API_KEY" in keyed.advice[0]
    assert "canary" not in repr(keyed) + repr(ready_json(config, url, MODEL, is_open=False))
    facts = json.loads(ready_json(config, url, MODEL, is_open=False).result)
    assert (facts["url"], facts["needs_key"], facts["model"]["name"]) == (url, True, "tiny")


@pytest.mark.parametrize(
    ("number", "text"), [(12, " 12 "), (4_500, " 4.5k "), (9_270_000_000, " 9.3B ")]
)
def test_parameters_are_counted_in_round_units(number: int, text: str) -> None:
    assert text in ready_line("http://x", dataclasses.replace(MODEL, num_parameters=number))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("box.local", "http://box.local:1"),
    ],
)
def test_the_url_can_be_used_from_this_machine(host: str, url: str) -> None:
    assert base_url(host, 1) == url


def test_a_data_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with (
        lock_data_directory(tmp_path / "new" / "data"),
        pytest.raises(DataDirectoryError, match=r"process \d+ on .*, started 20"),
        lock_data_directory(tmp_path / "new" / "data"),
    ):
        pass
    with lock_data_directory(tmp_path / "new" / "data"):
        pass


def test_the_holder_of_a_data_directory_says_where_it_answers(tmp_path: Path) -> None:
    assert find_holder(tmp_path) is None
    with lock_data_directory(tmp_path, url="http://127.0.0.1:1"):
        holder = find_holder(tmp_path)
        assert holder is not None
        assert (holder.url, holder.pid, holder.is_here) == ("http://127.0.0.1:1", os.getpid(), True)
    assert find_holder(tmp_path) is None


def test_a_data_directory_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with (
        pytest.raises(DataDirectoryError, match="cannot be used: "),
        lock_data_directory(tmp_path / "data"),
    ):
        pass


def test_resources_are_found_in_a_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (resources.find("examples") / "quickstart.py").is_file()
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "server")
    assert resources.find("tiny/checkpoint") == tmp_path / "tiny/checkpoint"
    bundled = tmp_path / "server/_bundled/tiny/checkpoint"
    bundled.mkdir(parents=True)
    assert resources.find("tiny/checkpoint") == bundled


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "70000"], "port: Input should be less than or equal to 65535"),
        (["--seed", "-1"], "seed: "),
    ],
)
def test_a_wrong_option_is_one_sentence_and_status_two(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_name_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONTUNE_PROT", "1")
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 2
    assert "MOONTUNE_PROT is not an option; MOONTUNE_PORT is" in result.stderr


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout[:9]) == (0, "moontune ")
