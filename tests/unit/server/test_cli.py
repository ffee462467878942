"""The manners that all verbs share: JSON, exit codes, help, completion, a quick start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from server.cli import app
from server.cli_page import page, verbs

ROOT = Path(__file__).parents[3]
VERBS = dict(verbs(typer.main.get_command(app)))
CANARY = "canary-3f9a"
HEAVY = ("torch", "fastapi", "sqlalchemy", "alembic", "uvicorn", "prometheus_client", "PIL")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MOONTUNE_"):
            monkeypatch.delenv(name)


def moontune(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The console script's own call, as a process."""
    return subprocess.run(
        [sys.executable, "-c", "from server.cli import main; main()", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_verb_has_json_and_says_what_it_and_each_option_does() -> None:
    for name, command in VERBS.items():
        assert command.help, name
        options = {word for parameter in command.params for word in parameter.opts}
        assert "--json" in options, name
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)


def test_all_verbs_are_there() -> None:
    """A new one is added here, so that none is lost when the files are moved about."""
    assert set(VERBS) == {
        f"moontune {name}"
        for name in (
            *("serve", "demo", "doctor", "status"),
            *("finetunes list", "finetunes show", "finetunes delete"),
            *("checkpoints list", "checkpoints show", "checkpoints delete"),
            *("keys create", "keys list", "keys revoke", "errors", "usage"),
            *("model pull", "model list", "model inspect"),
            *("export", "import", "backup", "restore", "verify"),
            *("config show", "config check"),
        )
    }


def test_the_page_of_the_command_line_is_the_one_that_it_writes() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == page(), "run `make docs`"


def test_help_imports_nothing_heavy_and_completion_lists_the_verbs() -> None:
    code = (
        "import sys; from server.cli import app;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
    for words, wanted in (
        ("moontune ", {v.split()[1] for v in VERBS}),
        ("moontune fi", {"finetunes"}),
    ):
        asked = {"_MOONTUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "1"}
        assert set(process(**asked).stdout.split()) == wanted
    asked = {
        "_MOONTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": "moontune config ",
        "COMP_CWORD": "2",
    }
    assert set(process(**asked).stdout.split()) == {"show", "check"}


REFUSED: tuple[tuple[tuple[str, ...], int, str], ...] = (
    # words, exit status, what stderr says
    (("status",), 1, "No server runs on "),
    (("finetunes", "list"), 1, "No server runs on "),
    (("finetunes", "list", "--url", "http://127.0.0.1:9"), 1, "Nobody answers at http://127"),
    (("finetunes", "list", "--url", "nonsense"), 1, "Nobody answers at nonsense"),
    (("checkpoints", "show", "nonsense"), 2, "write FINETUNE_ID@STEP"),
    (("export", "nonsense", "out"), 1, "write FINETUNE_ID@STEP"),
    (("verify",), 2, "is not the data directory of a server"),
    (("restore", "nowhere", "--data-dir", "new"), 1, "nowhere"),
)


@pytest.mark.parametrize(("words", "status", "sentence"), REFUSED, ids=lambda case: str(case)[:40])
def test_what_is_refused_is_one_sentence_on_stderr(
    words: tuple[str, ...],
    status: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = moontune(*words)
    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr.startswith("moontune: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("nonsense",), ("verify", "--nonsense"), ("export",)])
def test_wrong_usage_is_two(words: tuple[str, ...]) -> None:
    assert moontune(*words).exit_code == 2


def test_status_without_a_server_is_an_object_for_programs(tmp_path: Path) -> None:
    result = moontune("status", "--json", "--data-dir", str(tmp_path))
    told = json.loads(result.stdout)
    assert (result.exit_code, told["is_up"], told["is_ready"]) == (1, False, False)
    assert f"moontune serve --data-dir {tmp_path}" in told["detail"]


def test_the_configuration_is_shown_with_its_origins_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOONTUNE_API_KEY", CANARY)
    monkeypatch.setenv("MOONTUNE_DATABASE_URL", f"postgresql://me:{CANARY}@db/x?password={CANARY}")
    monkeypatch.setenv("MOONTUNE_PORT", "9000")
    monkeypatch.setenv("MOONTUNE_TRAIN_OPTIONS", '{"beta": 0.1}')
    people, programs = moontune("config", "show"), moontune("config", "show", "--json")
    assert (people.exit_code, programs.exit_code) == (0, 0)
    assert CANARY not in people.stdout + people.stderr + programs.stdout
    told: dict[str, dict[str, Any]] = {
        option["name"]: option for option in json.loads(programs.stdout)["options"]
    }
    assert told["MOONTUNE_PORT"]["value"] == "9000"
    assert told["MOONTUNE_API_KEY"] == {
        "name": "MOONTUNE_API_KEY",
        "value": "***",
        "origin": "environment",
    }
    assert told["MOONTUNE_DATABASE_URL"]["value"] == "postgresql://me:***@db/x?***"
    assert told["MOONTUNE_TRAIN_OPTIONS"]["value"] == '{"beta":0.1}'
    assert (told["MOONTUNE_SEED"]["value"], told["MOONTUNE_SEED"]["origin"]) == ("none", "default")
    assert moontune("config", "check").stdout == "The configuration is right.\n"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MOONTUNE_DATADIR", CANARY, "MOONTUNE_DATADIR is not an option; MOONTUNE_DATA_DIR is."),
        ("MOONTUNE_PORT", CANARY, "port: Input should be a valid integer"),
    ],
)
def test_a_wrong_configuration_is_told_without_its_value(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    told = moontune("config", "check", "--json")
    assert (told.exit_code, json.loads(told.stdout)["is_right"]) == (1, False)
    assert sentence in json.loads(told.stdout)["detail"]
    assert sentence in moontune("config", "check").stderr
    shown = moontune("config", "show")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert CANARY not in told.stdout + told.stderr + shown.stderr
