"""`python forking.py ZYGOTE_SOCKET word...`: the command `moontune`, whose trainers are forked.

Run by its path, with nothing else of the tests. A trainer imports torch for four seconds and is
started a hundred times; here a zygote that has imported it forks, see chaos/zygote.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from server import children

STUB = Path(__file__).with_name("chaos") / "stub.py"
NOWHERE = "/dev/null"
COLD = ("pull", "doctor")
"""They look at the environment, or for torch, while they are imported."""


def main() -> None:
    """Have every trainer forked, then do what the words say."""
    _, zygote, *words = sys.argv
    sys.argv = ["moontune", *words]
    cold_command = children.module_command

    def module_command(module: str, *words: str) -> list[str]:
        if module != "trainer" or words[0] in COLD:
            return cold_command(module, *words)
        kind, fd = "command", "-"
        if words[0] == "--fd":
            kind, fd = "trainer", words[1]
            words = ("--fd", "{fd}", *words[2:])
        return [sys.executable, "-I", "-S", "-E", str(STUB), zygote, NOWHERE, fd, kind, *words]

    children.module_command = module_command
    from server.cli import main as moontune

    moontune()


if __name__ == "__main__":
    main()
