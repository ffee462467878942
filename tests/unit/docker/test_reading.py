"""The reader of Dockerfiles and of .dockerignore: what it knows it reads, the rest it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.image.context import files, is_ignored, patterns
from tools.image.dockerfile import (
    Arg,
    Copy,
    DockerfileError,
    Env,
    Healthcheck,
    Run,
    Words,
    expand,
    parse,
)


def only(text: str) -> object:
    (stage,) = parse(f"FROM base\n{text}\n").stages
    (instruction,) = stage.instructions
    return instruction


def test_a_command_goes_on_over_lines_and_comments() -> None:
    read = only("RUN first \\\n  # why\n\n  && second")
    assert isinstance(read, Run)
    assert read.command == "first && second"
    assert read.line == 2


def test_instructions_are_read() -> None:
    copy = only("COPY --from=build a b/")
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.target, copy.stage) == (("a",), "b/", "build")
    env = only('ENV A=1 B="two words"')
    assert isinstance(env, Env)
    assert env.values == {"A": "1", "B": "two words"}
    check = only('HEALTHCHECK --interval=5s CMD ["a", "b"]')
    assert isinstance(check, Healthcheck)
    assert (check.options, check.argv) == ({"interval": "5s"}, ("a", "b"))
    user = only("USER 1:2")
    assert isinstance(user, Words)
    assert user.words == ("1:2",)
    arg = only("ARG TORCH")
    assert isinstance(arg, Arg)
    assert (arg.name, arg.default) == ("TORCH", None)


@pytest.mark.parametrize(
    "text",
    [
        "ADD a b",
        'SHELL ["/bin/bash"]',
        "run x",
        "RUN --mount=type=cache,target=/x y",
        'RUN ["exec", "form"]',
        "RUN <<EOF",
        "COPY --chown=1 a b",
        "COPY a*.lock b/",
        "COPY a",
        "ENV A 1",
        "ENTRYPOINT tini",
        "HEALTHCHECK NONE",
        "RUN",
        "RUN x \\",
        "# escape=`",
    ],
)
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse(f"FROM base\n{text}\n")


@pytest.mark.parametrize("text", ["", "RUN x", "FROM a b", "FROM --platform=x a AS b"])
def test_a_file_begins_with_an_image(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse(text)


def test_variables_are_put_in_and_must_have_a_value() -> None:
    assert expand("a-$B.${C}d", {"B": "1", "C": "2"}) == "a-1.2d"
    for wrong in ("$D", "${B:-x}", "$"):
        with pytest.raises(DockerfileError):
            expand(wrong, {"B": "1"})


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("server/app.py", False),
        ("server/__pycache__/app.pyc", True),
        ("server/api/__pycache__/app.pyc", True),
        ("docker/packages.lock", False),
        ("docker/more/packages.lock", True),
        ("docker/.env", True),
        (".env", True),
        ("servers", True),
    ],
)
def test_the_last_pattern_that_matches_counts(path: str, ignored: bool) -> None:
    rules = patterns("# note\n*\n!server\n!docker/*.lock\n**/__pycache__\n")
    assert is_ignored(path, rules) is ignored


def test_a_source_that_is_not_there_or_ignored_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name in ("kept/a", "kept/b", "other"):
        (tmp_path / name).touch()
    rules = patterns("*\n!kept\nkept/b\n")
    assert list(files(tmp_path, "kept", rules)) == ["kept/a"]
    for source in ("other", "absent", "kept/b"):
        with pytest.raises(FileNotFoundError):
            list(files(tmp_path, source, rules))


def test_a_form_of_ignoring_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="not known"):
        patterns("[ab]\n")
