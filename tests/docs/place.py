"""Where the blocks of documents run: a folder for each page, and one server for all."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from examples.shapes import draw_scene
from server.config import ServerConfig
from server.db import migrate
from tests.docs.commands import commands_of, lines_of
from tests.docs.marks import APART, NOT_RUN, PRELUDES, SCALES, Mark
from tests.docs.pages import ROOT, Block
from tests.forked import moontune
from tests.live import LiveServer

SHOWN_ENDPOINT = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 600

_SHIM = """\
#!/bin/sh
exec {command} "$@"
"""


class Place:
    """A folder with `data`, `picture.jpg` and `examples`, in which `moontune` is this checkout's.

    Args:
        folder: Empty.
        server: Serves what `data` leads to.
    """

    def __init__(self, folder: Path, server: LiveServer):
        self.folder = folder
        self._server = server
        self._apart = folder / "apart"
        (folder / "data").symlink_to(server.data_dir)
        (folder / "examples").symlink_to(ROOT / "examples")
        draw_scene(7).image.save(folder / "picture.jpg")
        self._apart.mkdir()
        migrate.upgrade(ServerConfig(data_dir=self._apart / "data"))
        programs = folder / "bin"
        programs.mkdir()
        self._write(programs / "moontune", _SHIM.format(command=shlex.join(moontune())))
        self._write(programs / "python", f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MOONTUNE_")}
        self._environment = {
            **clean,
            **SCALES,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),  # as the environment of `make setup` has it
            "OMP_NUM_THREADS": "1",
        }

    def run(self, blocks: Sequence[Block]) -> str:
        """Run the Python and shell blocks of one page, in order; return what they printed."""
        said: list[str] = []
        for block in blocks:
            code = block.code.replace(SHOWN_ENDPOINT, self._server.endpoint)
            if block.language == "python" and block.file_name is not None:
                (self.folder / block.file_name).write_text(code)
            elif block.language == "python":
                prelude = PRELUDES.get(block.page, "")
                prelude = prelude.replace(SHOWN_ENDPOINT, self._server.endpoint)
                said.append(self._call(block, [sys.executable, "-c", prelude + code], self.folder))
            elif block.language == "sh":
                for is_apart, script in scripts_of(block):
                    script = script.replace(SHOWN_ENDPOINT, self._server.endpoint)
                    folder = self._apart if is_apart else self.folder
                    said.append(self._call(block, ["bash", "-euc", script], folder))
        return "".join(said)

    def _call(self, block: Block, command: Sequence[str], folder: Path) -> str:
        ended = subprocess.run(
            command,
            cwd=folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, f"{block.place} ended with {ended.returncode}:\n" + (
            f"{command[-1]}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
        )
        return ended.stdout

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


def scripts_of(block: Block) -> Iterator[tuple[bool, str]]:
    """What of a shell block is run: scripts, each with whether it runs apart."""
    runnable = [line for line in lines_of(block.code) if not _marked(block, line, NOT_RUN)]
    for is_apart, lines in groupby(runnable, lambda line: _marked(block, line, APART)):
        yield is_apart, "\n".join(lines)


def _marked(block: Block, line: str, marks: Sequence[Mark]) -> bool:
    """A line with one marked command is marked as a whole."""
    return any(mark.meets(block.page, words) for words in commands_of(line) for mark in marks)
