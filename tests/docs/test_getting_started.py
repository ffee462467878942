"""What follows docs/getting-started.md does so; `python -m tests.docs.follow` runs it."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

from tests.docs import follow
from tests.docs.pages import Block

_STUB = "#!/bin/sh\necho 'moontune ready: here'\nexec sleep 60\n"


def test_the_page_becomes_a_script_of_all_its_commands() -> None:
    anywhere, cuda = follow.parts()
    made = follow.script(anywhere)
    assert subprocess.run(["bash", "-n", "-c", made], check=False).returncode == 0
    for expected in (
        "make demo",
        "moontune serve --data-dir data >",
        "python first.py",
        "cat > first.py",
    ):
        assert expected in made
    assert "https://github" not in made.replace("$ git clone https://github", "")
    assert any("TORCH=cuda" in block.code for block in cuda)
    assert follow.faults_of_the_cuda_part() == []


def test_a_page_that_fails_leaves_no_server(tmp_path: Path) -> None:
    program = tmp_path / "moontune"
    program.write_text(_STUB)
    program.chmod(0o755)
    page = Block(page="x.md", line=1, language="sh", code="moontune serve\nfalse\n")
    command = ["bash", "-c", follow.script([page])]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ends, held = os.pipe()  # the server has it open until it ends
    try:
        failed = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            pass_fds=[held],
            capture_output=True,
            check=False,
        )
    finally:
        os.close(held)
    assert failed.returncode == 1
    assert select.select([ends], [], [], 30.0)[0] == [ends], "the server is there still"
    os.close(ends)
