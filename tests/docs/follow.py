"""Follow docs/getting-started.md to the letter in an empty folder, and end as it ends.

python -m tests.docs.follow [FOLDER], or `make follow`

What is run are the page's own lines, in one shell, in order. Three things are added: the clone
comes from this checkout (its last commit), a server is waited for, as a person would, and is
stopped in the end. Of the part for a CUDA machine it is checked that the commands exist. It takes
minutes, as it installs torch.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.docs.commands import commands_of, fault_of, lines_of
from tests.docs.pages import ROOT, Block, blocks_of, text_of

PAGE = "docs/getting-started.md"
CUDA_HEADING = "## On a CUDA machine"
PORT = 8000
END_OF_FILE = "END_OF_THE_BLOCK"

_WAIT = """\
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until grep -q '^moontune ready: ' ready.txt; do kill -0 $server; sleep 0.2; done"""
_STOP = """\
kill -TERM $server
wait $server"""


def parts() -> tuple[list[Block], list[Block]]:
    """The blocks that any machine can run, and those of a CUDA machine."""
    lines = text_of(PAGE).splitlines()
    border = lines.index(CUDA_HEADING) + 1
    blocks = blocks_of(PAGE)
    return [b for b in blocks if b.line < border], [b for b in blocks if b.line > border]


def script(blocks: list[Block]) -> str:
    """The page as one shell script."""
    return "\n".join(["set -euo pipefail", *_lines(blocks), _STOP, ""])


def _lines(blocks: list[Block]) -> Iterator[str]:
    for block in blocks:
        if block.language == "python":
            yield f"cat > {block.file_name} <<'{END_OF_FILE}'\n{block.code}{END_OF_FILE}"
        elif block.language == "sh":
            for line in lines_of(block.code):
                yield f"echo {_quoted('$ ' + line)}"
                yield from _as_run(line)


def _as_run(line: str) -> Iterator[str]:
    words = commands_of(line)[0]
    if words[:2] == ["git", "clone"]:
        assert words[2].startswith("https://"), line
        folder = words[2].rpartition("/")[2]
        yield f"git clone -q {_quoted(str(ROOT))} {folder}"
    elif words[:2] == ["moontune", "serve"]:
        yield f"{line} > ready.txt 2> serve.log &"
        yield _WAIT
    else:
        yield line


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def faults_of_the_cuda_part() -> list[str]:
    """Its commands that do not exist."""
    return [
        f"{block.place}: {' '.join(words)}: {fault}"
        for block in parts()[1]
        if block.language == "sh"
        for line in lines_of(block.code)
        for words in commands_of(line)
        if (fault := fault_of(words))
    ]


def follow(folder: Path) -> int:
    """Run the page in a folder; return its exit status."""
    own = ("MOONTUNE_", "PYTHON", "VIRTUAL_ENV", "MAKE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    begun = time.monotonic()
    command = ["bash", "-c", script(parts()[0])]
    status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    print(f"{PAGE}: exit {status} after {time.monotonic() - begun:.0f} s", flush=True)  # noqa: T201
    return status


def main() -> int:
    """Follow the page; 0 if all of it holds."""
    parser = argparse.ArgumentParser(description=f"Follow {PAGE} to the letter.")
    parser.add_argument(
        "folder", nargs="?", type=Path, help="empty; absent: a new one, removed after"
    )
    arguments = parser.parse_args()
    if faults := faults_of_the_cuda_part():
        sys.exit("\n".join(faults))
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            sys.exit(f"Port {PORT}, which the page uses, is taken on this machine.")
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        if any(arguments.folder.iterdir()):
            sys.exit(f"{arguments.folder} is not empty.")
        return follow(arguments.folder)
    with tempfile.TemporaryDirectory() as folder:
        return follow(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
