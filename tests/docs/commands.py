"""Shell commands as documents show them: split, and held against what exists."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import click
import typer.main

from server.cli import app
from tests.docs.pages import ROOT

_ASSIGNMENT = re.compile(r"^[A-Za-z_]\w*=")
_SERVICE = re.compile(r"^moontune(?:-\w+)?(?::\w+)?$")
"""A service of compose.yaml, or an image, whose entry point is `moontune`."""
_BETWEEN = frozenset({"&&", "||", "|", ";", "&"})


def lines_of(code: str) -> list[str]:
    """The logical lines of a shell block, comments and empty ones left out."""
    joined = code.replace("\\\n", " ")
    return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def commands_of(line: str) -> list[list[str]]:
    """The commands of a line as words, what is assigned before them left out.

    That of `NAME=$(command)` is one of them.
    """
    opened = re.sub(r"(?<=\w=)\$\(([^()]*)\)", r"; \1", line)
    lexer = shlex.shlex(opened, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _BETWEEN:
            found.append([])
        elif found[-1] or not _ASSIGNMENT.match(word):
            found[-1].append(word)
    return [words for words in found if words]


@cache
def command_line() -> Any:
    """`moontune` as click sees it."""
    return typer.main.get_command(app)


def fault_of_moontune(words: list[str], *, is_whole: bool = True) -> str | None:
    """What is wrong with `moontune WORDS...`: a verb, an option or an argument.

    Args:
        is_whole: A command that could be run; else, as in a sentence, arguments may be missing.
    """
    command, rest = command_line(), list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"there is no verb {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    known = options_of(command)
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:
            return f"it has no option {word}"
    if not is_whole or hasattr(command, "commands"):
        return None
    try:
        command.make_context("moontune", rest)
    except click.UsageError as error:
        return error.format_message()
    except Exception as error:  # typer brings a click of its own
        if type(error).__name__ in ("Exit", "Abort"):
            return None
        return f"{type(error).__name__}: {error}"
    return None


def options_of(command: Any) -> set[str]:
    """The options that a verb or group takes."""
    parameters = [word for p in command.params for word in (*p.opts, *p.secondary_opts)]
    own = {"--install-completion", "--show-completion"} if command is command_line() else set()
    return {*parameters, *own, "--help"}


@cache
def make_targets() -> frozenset[str]:
    """What `make` can be asked for."""
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony is not None
    return frozenset(phony[1].replace("\\", " ").split())


def _inside(words: list[str]) -> list[str] | None:
    """The command that `sudo` or a container is asked to run, if it is one of ours."""
    if words[0] == "sudo":
        rest = words[1:]
        while rest and rest[0].startswith("-"):
            rest = rest[2:] if rest[0] in ("-u", "-g") else rest[1:]
        return rest if rest[:1] in (["moontune"], ["make"]) else None
    if words[0] != "docker" or "--entrypoint" in words:
        return None
    services = [at for at, word in enumerate(words) if _SERVICE.match(word)]
    rest = words[services[0] + 1 :] if services else []
    if "exec" in words and rest[:1] == ["moontune"]:
        return rest
    if "run" in words and rest:
        return ["moontune", *rest]
    return None


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a command that is not run, as far as it is ours."""
    if words[0] == "moontune":
        return fault_of_moontune(words[1:])
    if inner := _inside(words):
        return fault_of(inner)
    if words[0] == "make":
        asked = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        missing = [word for word in asked if word not in make_targets()]
        return f"make has no target {missing}" if missing else None
    return None
