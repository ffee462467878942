"""`python forking.py ZYGOTE_SOCKET word...`: the command `moontune`, whose trainers are forked.

Run by its path, and this checkout's whatever is installed. A trainer imports torch for four seconds
and is started a hundred times; here a zygote that has imported it forks, see chaos/zygote.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

COLD = ("doctor", "list", "pull")
"""What they import reads the environment at once, such as the address of the hub."""


def main() -> None:
    """Have every trainer forked, then do what the words say."""
    _, zygote, *sys.argv[1:] = sys.argv
    sys.argv[0] = "moontune"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from server import children
    from tests.chaos.stub_command import stub_command, worker_words

    cold_command = children.module_command

    def module_command(module: str, *words: str) -> list[str]:
        command = cold_command(module, *words)
        if module != "trainer" or words[0] in COLD:
            return command
        if words[0] == "--fd":
            return stub_command(zygote, *worker_words(command), fd=int(words[1]))
        return stub_command(zygote, "command", *words)

    children.module_command = module_command
    from server.cli import main as moontune  # who imports the command from here on has ours

    moontune()


if __name__ == "__main__":
    main()
