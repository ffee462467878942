"""What follows docs/getting-started.md does so; `python -m tests.docs.follow` runs it."""

from __future__ import annotations

import subprocess

from tests.docs import follow


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
