"""A Dockerfile as its instructions: those that ours uses, in the forms that it uses.

Whatever else it may say is an error and not passed over: who reads it here relies on having read
all of it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_DIRECTIVE = re.compile(r"#\s*(syntax|escape|check)\s*=", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class DockerfileError(Exception):
    """It cannot be read; the message has the line and the reason."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction; the kinds below say more.

    Attributes:
        line: Where it begins.
        text: As it is written, on one line.
    """

    line: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Arg(Instruction):
    """ARG NAME or NAME=DEFAULT."""

    name: str
    default: str | None


@dataclass(frozen=True, kw_only=True)
class Run(Instruction):
    """RUN of a shell's command."""

    command: str


@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """COPY, from the context or from another stage."""

    sources: tuple[str, ...]
    target: str
    stage: str | None


@dataclass(frozen=True, kw_only=True)
class Env(Instruction):
    """ENV NAME=VALUE ..."""

    values: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Healthcheck(Instruction):
    """HEALTHCHECK with its options and an argv."""

    options: Mapping[str, str]
    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Words(Instruction):
    """USER, WORKDIR, EXPOSE, VOLUME, ENTRYPOINT and CMD: a keyword and its words."""

    keyword: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What begins with FROM.

    Attributes:
        base: An image, or the name of an earlier stage.
        name: What later stages call it.
    """

    line: int
    base: str
    name: str | None
    instructions: tuple[Instruction, ...]

    def of(self, kind: type[Instruction]) -> list[Instruction]:
        """Its instructions of one kind."""
        return [found for found in self.instructions if isinstance(found, kind)]

    def last(self, keyword: str) -> Words | None:
        """What counts of a keyword that may come again."""
        found = [i for i in self.of(Words) if isinstance(i, Words) and i.keyword == keyword]
        return found[-1] if found else None


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """All stages, the last being the image; and the arguments that stand before them."""

    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]


@dataclass
class _Open:
    """A stage that is being read."""

    line: int
    base: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def closed(self) -> Stage:
        return Stage(
            line=self.line, base=self.base, name=self.name, instructions=tuple(self.instructions)
        )


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile.

    Raises:
        DockerfileError: It says something that is not known here.
    """
    arguments: list[Arg] = []
    stages: list[_Open] = []
    for line, logical in _logical_lines(text):
        keyword, _, rest = logical.partition(" ")
        rest = rest.strip()
        if keyword == "FROM":
            stages.append(_from(line, rest))
            continue
        instruction = _instruction(line, logical, keyword, rest)
        if stages:
            stages[-1].instructions.append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise DockerfileError(f"line {line}: {keyword} before the first FROM")
    if not stages:
        raise DockerfileError("there is no FROM")
    return Dockerfile(arguments=tuple(arguments), stages=tuple(stage.closed() for stage in stages))


def expand(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of $NAME and ${NAME}.

    Raises:
        DockerfileError: A name has no value, or there is a $ of another form.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in values:
            raise DockerfileError(f"{text}: {name} has no value")
        return values[name]

    expanded = _VARIABLE.sub(value, text)
    if "$" in _VARIABLE.sub("", text):
        raise DockerfileError(f"{text}: this form of $ is not known here")
    return expanded


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with what continues them, without comments."""
    parts: list[str] = []
    start = 0
    for number, raw in enumerate(text.splitlines(), 1):
        stripped = raw.strip()
        if _DIRECTIVE.match(stripped):
            raise DockerfileError(f"line {number}: directives are not known here: {stripped}")
        if not stripped or stripped.startswith("#"):
            continue
        if not parts:
            start = number
        if stripped.endswith("\\"):
            parts.append(stripped[:-1].strip())
            continue
        yield start, " ".join([*parts, stripped])
        parts = []
    if parts:
        raise DockerfileError(f"line {start}: it goes on after the end of the file")


def _from(line: int, rest: str) -> _Open:
    words = rest.split()
    if len(words) == 1:
        return _Open(line, words[0], None)
    if len(words) == 3 and words[1] == "AS":
        return _Open(line, words[0], words[2])
    raise DockerfileError(f"line {line}: FROM {rest}: wanted is IMAGE or IMAGE AS NAME")


def _instruction(line: int, text: str, keyword: str, rest: str) -> Instruction:
    if not rest:
        raise DockerfileError(f"line {line}: {keyword} of nothing")
    match keyword:
        case "ARG":
            name, equals, default = rest.partition("=")
            return Arg(line=line, text=text, name=name, default=default if equals else None)
        case "RUN":
            if rest.startswith(("[", "--", "<<")):
                raise DockerfileError(f"line {line}: of RUN only a shell's command is known here")
            return Run(line=line, text=text, command=rest)
        case "COPY":
            return _copy(line, text, rest)
        case "ENV":
            pairs = [word.partition("=") for word in shlex.split(rest)]
            if not all(equals for _, equals, _ in pairs):
                raise DockerfileError(f"line {line}: of ENV only NAME=VALUE is known here")
            values = {name: value for name, _, value in pairs}
            return Env(line=line, text=text, values=values)
        case "HEALTHCHECK":
            return _healthcheck(line, text, rest)
        case "ENTRYPOINT" | "CMD" | "VOLUME":
            return Words(line=line, text=text, keyword=keyword, words=_json_words(line, rest))
        case "USER" | "WORKDIR" | "EXPOSE":
            return Words(line=line, text=text, keyword=keyword, words=tuple(rest.split()))
        case _:
            raise DockerfileError(f"line {line}: the instruction {keyword} is not known here")


def _copy(line: int, text: str, rest: str) -> Copy:
    flags = [word for word in rest.split() if word.startswith("--")]
    paths = [word for word in rest.split() if not word.startswith("--")]
    if any(not flag.startswith("--from=") for flag in flags) or len(flags) > 1:
        raise DockerfileError(f"line {line}: of the flags of COPY only --from is known here")
    if len(paths) < 2 or any(set("*?[]") & set(path) for path in paths):
        raise DockerfileError(f"line {line}: COPY wants sources by name and a target")
    return Copy(
        line=line,
        text=text,
        sources=tuple(paths[:-1]),
        target=paths[-1],
        stage=flags[0].removeprefix("--from=") if flags else None,
    )


def _healthcheck(line: int, text: str, rest: str) -> Healthcheck:
    before, found, argv = rest.partition("CMD ")
    options = [word.removeprefix("--").partition("=") for word in before.split()]
    if not found or not all(equals for _, equals, _ in options):
        raise DockerfileError(f"line {line}: HEALTHCHECK wants --NAME=VALUE ... CMD")
    return Healthcheck(
        line=line,
        text=text,
        options={name: value for name, _, value in options},
        argv=_json_words(line, argv),
    )


def _json_words(line: int, text: str) -> tuple[str, ...]:
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DockerfileError(f"line {line}: {text}: wanted is a list of strings, as JSON")
    return tuple(words)
