"""docs/proxies.md has the figures of the run, and the files of deploy/ the rules that it names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.chaos import proxy_table
from tests.chaos.reverse_proxies import HAPROXY, KINDS, NGINX, Certificate, Kind, ReverseProxy

PATIENCE_SECONDS = 900
"""Of the SDK, for a train step: http-api.md 2.2."""

PAGE = proxy_table.PAGE.read_text()


def test_the_figures_of_the_page_are_those_of_the_run() -> None:
    report = json.loads(proxy_table.RESULTS.read_text())
    assert proxy_table.section(report) in PAGE, "run `make proxies`, or its last line"


def test_the_run_lost_nothing_and_was_exact() -> None:
    figures = json.loads(proxy_table.RESULTS.read_text())["bars"]["P1"]["figures"]
    for kind in KINDS:
        seen = figures[kind.name]
        assert seen["raced_calls"] >= 200
        assert seen["abandoned_attempts"] > 0
        assert seen["lost"] == 0


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (NGINX, ("proxy_read_timeout", "proxy_send_timeout", "client_body_timeout")),
        (HAPROXY, ("timeout client", "timeout server")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_nothing_gives_up_before_the_sdk(kind: Kind, names: tuple[str, ...]) -> None:
    for name in names:
        (seconds,) = re.findall(rf"^\s+{name} (\d+)s;?$", kind.text, re.MULTILINE)
        assert int(seconds) > PATIENCE_SECONDS, name


def test_the_page_names_lines_that_the_files_have() -> None:
    table = PAGE.partition("## What the rules are for")[2].partition("\n\nNumber of")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")][2:]
    for kind, column in ((NGINX, 3), (HAPROXY, 4)):
        lines = [line.strip() for line in kind.text.splitlines()]
        rules = "\n".join(line for line in lines if not line.startswith("#"))
        for row in rows:
            cell = row[column]
            for line in re.findall(r"`([^`]+)`", cell):
                is_there = line in rules
                assert is_there is not cell.strip().startswith("no "), f"{kind.name}: {line}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_program_finds_no_fault_with_its_file(kind: Kind, tmp_path: Path) -> None:
    if kind.program is None:
        pytest.skip(f"{kind.name} is not installed")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    proxy = ReverseProxy(kind, tmp_path / "at-work", 8000, Certificate(tmp_path / "certificate"))
    check = "-t" if kind is NGINX else "-c"
    done = subprocess.run([*proxy.command(), check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in (done.stdout + done.stderr).lower(), done.stderr
