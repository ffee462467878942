"""Every code block of the documents: run, parsed, or marked with a reason."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.commands import commands_of, fault_of, lines_of
from tests.docs.marks import (
    APART,
    NOT_PARSED,
    NOT_RUN,
    PRELUDES,
    SCALES,
    UNREAD_BLOCKS,
)
from tests.docs.pages import ROOT, Block, blocks_of, documents, indented_code, text_of
from tests.docs.place import Place, scripts_of
from tests.forked import ForkingServer

SLOW_PAGE = "docs/recipes/export.md"
BLOCKS = [block for page in documents() for block in blocks_of(page)]


def runs(block: Block) -> bool:
    return block.language == "python" or (block.language == "sh" and any(scripts_of(block)))


RUNNABLE = sorted({block.page for block in BLOCKS if runs(block)})


def group_of(page: str) -> str:
    """Pages that run one after another, on one server; the slowest has one for itself."""
    return "docs-export" if page == SLOW_PAGE else "docs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkingServer]:
    with ForkingServer(tmp_path_factory.mktemp("docs") / "data", "--seed", "1") as server:
        yield server


@pytest.mark.database("sqlite")  # the pages show commands on a data directory and nothing else
@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.xdist_group(group_of(p))) for p in RUNNABLE]
)
def test_the_blocks_of_a_page_run(page: str, server: ForkingServer, tmp_path: Path) -> None:
    said = Place(tmp_path, server).run(blocks_of(page))
    if page == "docs/recipes/resume.md":
        assert "goes on at step 0" in said
        assert "goes on at step 4" in said
    if page == "docs/troubleshooting.md":
        assert said.count('"code":"validation_error"') == 1


@pytest.mark.e2e
@pytest.mark.xdist_group("docs")
def test_metrics_of_the_server_that_pages_name_exist(server: ForkingServer, tmp_path: Path) -> None:
    recipe = Block(page="docs/recipes/x.md", line=1, language="python", code=_ONE_STEP_OF_EACH)
    Place(tmp_path, server).run([recipe])
    listed = server.get("/v1/tuning/finetunes?limit=100").json()["finetunes"]
    (finetune_id,) = (f["finetune_id"] for f in listed if f["name"] == "both-modes")
    answer = server.get(f"/v1/tuning/finetunes/{finetune_id}/metrics?limit=100").json()
    known = {entry["name"] for entry in answer["metrics"]}
    named = {
        name for page in documents() for name in re.findall(r"`(sys/[a-z_/]+)`", text_of(page))
    }
    assert named <= known


_ONE_STEP_OF_EACH = """
import moondream as md

ft = md.ft("none", name="both-modes", rank=8, endpoint="http://127.0.0.1:8000/v1/tuning")
answer = ft.rollouts("query", question="Who are you?", num_rollouts=2,
                     settings={"temperature": 1.0, "max_tokens": 4})
rl = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
sft = {"mode": "sft", "request": {"skill": "query", "question": "Who are you?"},
       "target": {"answer": "A moon."}}
ft.train_step([{**rl, "rewards": [0, 1]}, sft])
"""


def parse_ini(text: str) -> None:
    """Units of systemd may repeat a key; files of its environment have no section."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.read_string(f"[environment]\n{text}")


def parse_http(text: str) -> None:
    """Lines such as `GET /v1/...?limit=...`: the route and its parameters exist."""
    routes = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    for line in text.splitlines():
        method, address = line.split()[:2]
        path, _, query = address.partition("?")
        operation = routes[path][method.lower()]
        known = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"}
        assert {part.partition("=")[0] for part in query.split("&") if part} <= known, line


def parse_python(text: str) -> None:
    compile(text, "block", "exec")


def parse_shell(text: str) -> None:
    assert lines_of(text), "it holds no command"


PARSERS: dict[str, Callable[[str], object]] = {
    "python": parse_python,
    "sh": parse_shell,
    "json": json.loads,
    "yaml": yaml.safe_load,
    "toml": tomllib.loads,
    "ini": parse_ini,
    "http": parse_http,
}


@pytest.mark.parametrize("page", documents())
def test_every_block_is_in_a_language_that_is_checked(page: str) -> None:
    assert indented_code(page) == [], "fence it, and name its language"
    for block in blocks_of(page):
        if block.language in NOT_PARSED or (page, block.language) in UNREAD_BLOCKS:
            continue
        parser = PARSERS.get(block.language)
        assert parser, f"{block.place}: nothing reads {block.language!r}; fence it as text?"
        parser(block.code)


def test_commands_exist_whether_they_are_run_or_not() -> None:
    faults = [
        f"{block.place}: {' '.join(words)}: {fault}"
        for block in BLOCKS
        if block.language == "sh"
        for line in lines_of(block.code)
        for words in commands_of(line)
        if (fault := fault_of(words))
    ]
    assert faults == []


def test_no_mark_is_stale() -> None:
    commands = [
        (block.page, words)
        for block in BLOCKS
        if block.language == "sh"
        for line in lines_of(block.code)
        for words in commands_of(line)
    ]
    for mark in (*NOT_RUN, *APART):
        assert any(mark.meets(page, words) for page, words in commands), mark
    used = {(block.page, block.language) for block in BLOCKS}
    assert UNREAD_BLOCKS.keys() <= used
    assert NOT_PARSED.keys() <= {language for _, language in used}
    assert PRELUDES.keys() <= {page for page, language in used if language == "python"}
    for name in SCALES:
        assert any(f'os.environ.get("{name}"' in block.code for block in BLOCKS), name


def test_a_line_is_marked_as_a_whole_or_not_at_all() -> None:
    for block in BLOCKS:
        for line in lines_of(block.code) if block.language == "sh" else ():
            marked = {
                any(mark.meets(block.page, words) for mark in NOT_RUN)
                for words in commands_of(line)
            }
            assert len(marked) <= 1, f"{block.place}: {line}: what is not marked would not run"


def test_every_script_that_is_saved_is_run() -> None:
    for page in documents():
        saved = {block.file_name for block in blocks_of(page) if block.file_name}
        run = {
            words[1]
            for block in blocks_of(page)
            if block.language == "sh"
            for line in lines_of(block.code)
            for words in commands_of(line)
            if words[0] == "python"
        }
        assert saved == {name for name in run if not name.startswith("-")}, page


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("moontune serve --data-dir data", "moontune serve --data-dri data"),
        ("moontune keys revoke laptop", "moontune keys revoke"),
        ("X=1 moontune status && make demo", "X=1 moontune status && make dmeo"),
        ("C=$(moontune status --json)", "C=$(moontune state --json)"),
        ("sudo -u moontune moontune doctor", "sudo -u moontune moontune docter"),
        ("docker compose exec moontune moontune status", "docker compose exec moontune moontune x"),
        (
            "docker compose run --rm moontune keys list",
            "docker compose run --rm moontune keys show",
        ),
        ("docker run moontune:cuda restore a --data-dir b", "docker run moontune:cuda restore a"),
        ("docker compose logs --follow moontune", "sudo make setpu TORCH=cuda"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(right: str, wrong: str) -> None:
    assert [fault_of(words) for words in commands_of(right) if fault_of(words)] == []
    assert [fault_of(words) for words in commands_of(wrong) if fault_of(words)] != []
