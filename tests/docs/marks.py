"""Commands of the documents that are not simply run, each with its reason.

What is marked still has to exist: verbs and options of `moontune`, targets of `make`. A mark that
no command of a document meets any more fails a test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Commands that begin with `words`, on `page` alone if it is named."""

    words: str
    reason: str
    page: str | None = None

    def meets(self, page: str, words: list[str]) -> bool:
        begun = self.words.split()
        return self.page in (None, page) and words[: len(begun)] == begun


NOT_RUN = (
    Mark(words="git clone", reason="needs the network; tests.docs.follow clones the checkout"),
    Mark(words="cd moontune", reason="the folder of that clone"),
    Mark(words=". .venv/bin/activate", reason="tests have an environment"),
    *(
        Mark(words="make", page=page, reason="sets up an environment; tests.docs.follow does it")
        for page in ("README.md", "docs/getting-started.md")
    ),
    Mark(words="moontune serve", reason="runs until it is stopped; one does, for all blocks"),
    Mark(words="moontune model pull", reason="fetches gigabytes"),
    Mark(
        words="moontune doctor --model",
        page="docs/getting-started.md",
        reason="is about a model that is not here",
    ),
    Mark(
        words="moontune import hosted.pt",
        page="docs/moving.md",
        reason="a file of the hosted service is not at hand",
    ),
    Mark(
        words="moontune export",
        page="docs/adapters.md",
        reason="names no real checkpoint; runs on docs/recipes/export.md",
    ),
    Mark(
        words="moontune import",
        page="docs/adapters.md",
        reason="names no real file; runs on docs/recipes/export.md",
    ),
    Mark(
        words="moontune export $CHECKPOINT small-merged",
        page="docs/recipes/export.md",
        reason="takes seconds; runs in tests/e2e/test_travel.py",
    ),
    Mark(
        words="moontune import small.pt",
        page="docs/recipes/export.md",
        reason="takes seconds; runs in tests/e2e/test_travel.py",
    ),
    Mark(words="moontune doctor --data-dir", reason="takes seconds; tests.docs.follow runs it"),
    Mark(words="pip install", page="docs/releasing.md", reason="needs the network"),
    Mark(words="cp .env.example", page="docker/README.md", reason="is about docker/"),
    Mark(
        words="docker",
        page="docker/README.md",
        reason="there is no engine; make image-steps runs what an image does",
    ),
    *(
        Mark(
            words=words,
            page="docs/operations.md",
            reason="takes the database away; tests/migrations/test_first_release.py does it",
        )
        for words in (
            "cp data/moontune.db.0002.20261129T050000Z.backup",
            "rm -f data/moontune.db-wal",
            "mv data/back data/moontune.db",
        )
    ),
    Mark(words="nvidia-smi", page="docs/cuda-box.md", reason="needs a GPU"),
    Mark(words="sudo", page="docs/cuda-box.md", reason="changes the machine"),
    Mark(words="journalctl", page="docs/cuda-box.md", reason="needs systemd"),
    Mark(words="cd", page="docs/cuda-box.md", reason="is about folders of that machine"),
    Mark(words="moontune doctor", page="docs/cuda-box.md", reason="needs a GPU"),
    Mark(words="mv data", page="docs/cuda-box.md", reason="is about folders of that machine"),
    Mark(words="mv restored data", page="docs/cuda-box.md", reason="as the line before"),
    Mark(words="moontune restore", page="docs/cuda-box.md", reason="is about a backup made there"),
    Mark(words="tar --list", page="docker/README.md", reason="is about a dump made there"),
    *(
        Mark(words=words, page="docs/operations.md", reason="changes a server of PostgreSQL")
        for words in ("createuser", "createdb --owner=moontune moontune")
    ),
    *(
        Mark(
            words=words,
            page="docs/operations.md",
            reason="needs a PostgreSQL of its own; tests/e2e/test_postgres_backup.py has one",
        )
        for words in (
            "createdb --owner=moontune restored",
            "pg_dump",
            "pg_restore",
            "cp -a data data.monday",
            "cp -a data.monday",
            "moontune verify --data-dir restored-data",
        )
    ),
)

APART = (
    Mark(words="moontune keys", reason="the first key would close the server that others call"),
)
"""Run on a data directory of their own, which nobody serves."""

NOT_PARSED: dict[str, str] = {
    "text": "no language: output, formulas, figures",
}
"""Languages of blocks that nothing is asked of."""

UNREAD_BLOCKS: dict[tuple[str, str], str] = {}
"""Blocks in languages that nothing here reads: page and language, with who checks them instead."""

_LINE_OF_A_SCRIPT = """\
import os

import moondream as md

name = f"prelude-{os.getpid()}"
ft = md.ft("none", name=name, rank=8, endpoint="http://127.0.0.1:8000/v1/tuning")
request = {"skill": "query", "question": "Who are you?"}
groups, step = [{"mode": "sft", "request": request, "target": {"answer": "A moon."}}], 0
"""

PRELUDES: dict[str, str] = {
    "docs/operations.md": _LINE_OF_A_SCRIPT,
    "docs/proxies.md": _LINE_OF_A_SCRIPT,
}
"""What stands before the Python blocks of pages that show a line out of a script."""

SCALES = {"STEPS": "2", "SFT_STEPS": "1", "RL_STEPS": "1", "EVERY": "1", "HELD_OUT": "4"}
"""How much smaller recipes run here; each name stands in the recipe that reads it."""
