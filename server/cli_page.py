"""docs/cli.md, written from the command line itself by `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from server.cli import app

_HEAD = """\
# Command line

Results go to stdout, for people or, with `--json`, as one JSON object for programs. Progress and
the reason of a refusal go to stderr.

| Exit status | Means |
|---|---|
| 0 | done; of `doctor`, `verify`, `status` and `config check`: all is well |
| 1 | refused or failed, with one sentence on stderr; or what was looked at is not well |
| 2 | wrong usage: an option, an argument or a `MOONTUNE_` variable |
| 130 | interrupted |

Options that are also in [configuration.md](configuration.md) win over the environment.
`finetunes`, `checkpoints` and `status` call the server that runs on the data directory, or that of
`--url`, with the key in `MOONTUNE_API_KEY`; before something is deleted they ask, and without a
terminal they want `--yes`. Verbs that need torch start `python -m trainer`, and say which packages
are missing.

`moontune --install-completion` has bash, zsh, fish or PowerShell complete verbs and options.

This page is written by `make docs` from `server/cli/`.
"""


def page() -> str:
    """The page as it should stand in docs/cli.md."""
    root: Any = typer.main.get_command(app)
    sections = [_section(name, command) for name, command in verbs(root)]
    return "\n".join([_HEAD, *sections])


def verbs(group: Any, before: str = "moontune") -> Iterator[tuple[str, Any]]:
    """Every verb with its full name, in the order of `--help`."""
    for name, command in group.commands.items():
        full_name = f"{before} {name}"
        if hasattr(command, "commands"):
            yield from verbs(command, full_name)
        else:
            yield full_name, command


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([name, *map(_argument, arguments)])
    rows = [f"| `{_argument(p)}` | {p.help} |" for p in arguments]
    rows += [f"| `{_option(p)}` | {p.help}{_default(p)} |" for p in options]
    text = command.help.replace("\n\n", "\n").strip()
    return "\n".join([f"## {usage}", "", text, "", "| | |", "|---|---|", *rows, ""])


def _argument(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _option(parameter: Any) -> str:
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    if parameter.required:
        return " Required."
    if parameter.default is None or isinstance(parameter.default, bool):
        return ""
    return f" Default: `{parameter.default}`."


if __name__ == "__main__":
    sys.stdout.write(page())
