"""The stages of a Dockerfile built as overlays of a Debian root, as an engine builds layers.

Needs root and mount namespaces of Linux: its mounts must be in a namespace that ends with it. What
it does not do as an engine does: the base is a Debian root of the same release and not the image
of that digest, nothing is cached, and commands see this machine's network and devices.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.image import context
from tools.image.dockerfile import (
    Arg,
    Copy,
    Dockerfile,
    DockerfileError,
    Env,
    Healthcheck,
    Instruction,
    Run,
    Stage,
    Words,
    expand,
)

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MACHINE = "/mnt"
"""Where a command finds what this machine's pip reads; in the image the folder is empty."""

NAMES = ("/etc/resolv.conf", "/etc/hosts")
"""Files that an engine lays over the image's."""


@dataclass
class Image:
    """A stage while it is built, and when it is done.

    Attributes:
        layers: Folders, the base first; the last takes what is written.
        root: Where it is mounted.
        arguments: Values of ARG, for the commands of this stage.
        config: By keyword, the words of USER, WORKDIR, ENTRYPOINT, CMD, VOLUME and EXPOSE.
    """

    layers: list[Path]
    root: Path
    environment: dict[str, str]
    arguments: dict[str, str] = field(default_factory=dict)
    config: dict[str, tuple[str, ...]] = field(default_factory=dict)
    healthcheck: Healthcheck | None = None

    @property
    def directory(self) -> str:
        return self.config.get("WORKDIR", ("/",))[0]

    @property
    def user(self) -> str:
        return self.config.get("USER", ("0:0",))[0]

    def inside(self, path: str) -> Path:
        """A path of the image, seen from here; relative ones are of its WORKDIR."""
        return self.root / (Path(self.directory) / path).relative_to("/")


class Builder:
    """Builds all stages in order.

    Args:
        workspace: An empty folder.
        base: A Debian root, which is not written to.
        repository: What the context is made of.
        arguments: As `--build-arg`.
        say: Told each step.
    """

    def __init__(
        self,
        *,
        workspace: Path,
        base: Path,
        repository: Path,
        arguments: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._workspace = workspace
        self._base = base
        self._repository = repository
        self._rules = context.patterns((repository / ".dockerignore").read_text())
        self._given = dict(arguments)
        self._say = say
        self._images: dict[str, Image] = {}

    def build(self, dockerfile: Dockerfile) -> Image:
        """Build it; returns the last stage, mounted."""
        before = {arg.name: self._value(arg, {}) for arg in dockerfile.arguments}
        image = None
        for number, stage in enumerate(dockerfile.stages):
            image = self._begin(number, stage)
            for instruction in stage.instructions:
                self._say(f"{stage.name or 'image'}: {instruction.text[:110]}")
                started = time.monotonic()
                self._do(image, instruction, before)
                if isinstance(instruction, Run):
                    self._say(f"    {time.monotonic() - started:.1f} s")
            self._images[stage.name or str(number)] = image
        assert image is not None
        return image

    def _begin(self, number: int, stage: Stage) -> Image:
        upper, work, root = (
            self._workspace / str(number) / name for name in ("layer", "work", "root")
        )
        for folder in (upper, work, root):
            folder.mkdir(parents=True)
        parent = self._images.get(stage.base)
        if parent is None and not stage.base.startswith("debian:"):
            raise DockerfileError(f"line {stage.line}: the base {stage.base} is not known here")
        image = Image(
            layers=[*(parent.layers if parent else [self._base]), upper],
            root=root,
            environment=dict(parent.environment) if parent else {"PATH": BASE_PATH},
            config=dict(parent.config) if parent else {},
        )
        lower = ":".join(str(layer) for layer in reversed(image.layers[:-1]))
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)])
        return image

    def _do(self, image: Image, instruction: Instruction, before: Mapping[str, str]) -> None:
        known = {**image.arguments, **image.environment}
        match instruction:
            case Arg():
                image.arguments[instruction.name] = self._value(instruction, before)
            case Run():
                self._run(image, instruction.command)
            case Copy():
                self._copy(image, instruction, known)
            case Env():
                values = {name: expand(text, known) for name, text in instruction.values.items()}
                image.environment.update(values)
            case Healthcheck():
                image.healthcheck = instruction
            case Words():
                words = tuple(expand(word, known) for word in instruction.words)
                image.config[instruction.keyword] = words
                if instruction.keyword == "WORKDIR":
                    image.inside(words[0]).mkdir(parents=True, exist_ok=True)
            case _:
                raise DockerfileError(f"line {instruction.line}: nothing is done for it here")

    def _value(self, arg: Arg, before: Mapping[str, str]) -> str:
        for values in (self._given, before):
            if arg.name in values:
                return values[arg.name]
        if arg.default is None:
            raise DockerfileError(f"line {arg.line}: {arg.name} has no value")
        return arg.default

    def _run(self, image: Image, command: str) -> None:
        environment = {**image.environment, **image.arguments, "HOME": "/root"}
        with _Mounts(image.root) as mounts:
            mounts.machine()
            environment.update(mounts.pip_settings())
            shell = ["/bin/sh", "-ec", 'cd "$0" && eval "$1"', image.directory, command]
            run(["chroot", str(image.root), *shell], env=environment)

    def _copy(self, image: Image, copy: Copy, known: Mapping[str, str]) -> None:
        target = expand(copy.target, known)
        into = image.inside(target)
        if len(copy.sources) > 1 and not target.endswith("/"):
            raise DockerfileError(f"line {copy.line}: several sources want a target that ends in /")
        for source in (expand(source, known) for source in copy.sources):
            if copy.stage is not None:
                there = self._images[copy.stage].inside(source)
                shutil.copytree(there, into, symlinks=True, dirs_exist_ok=True)
            elif (self._repository / source).is_dir():
                for name in context.files(self._repository, source, self._rules):
                    _place(self._repository / name, into / Path(name).relative_to(source))
            else:
                (name,) = context.files(self._repository, source, self._rules)
                is_folder = target.endswith("/") or into.is_dir()
                _place(self._repository / name, into / Path(name).name if is_folder else into)


class _Mounts:
    """What an engine mounts while a command runs; gone when the block ends."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounted: list[Path] = []

    def __enter__(self) -> _Mounts:
        return self

    def __exit__(self, *_: object) -> None:
        for place in reversed(self._mounted):
            run(["umount", "--lazy", "--recursive", str(place)])

    def machine(self) -> None:
        """Processes, devices and the names of hosts."""
        self._mount("/proc", "-t", "proc", "proc")
        self._mount("/dev", "--rbind", "/dev")
        for name in NAMES:
            (self._root / name.lstrip("/")).touch()
            self._mount(name, "--bind", name)
        self._mount(MACHINE, "-t", "tmpfs", "tmpfs")

    def pip_settings(self) -> dict[str, str]:
        """This machine's PIP_..., with the files and folders that they name."""
        settings = {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
        settings.setdefault("PIP_RETRIES", "1")
        for name in ("PIP_CERT", "PIP_FIND_LINKS"):
            if name in settings and (there := Path(settings[name])).exists():
                place = f"{MACHINE}/{name.lower()}"
                self._make(there, self._root / place.lstrip("/"))
                self._mount(place, "--bind", str(there))
                settings[name] = place
        return settings

    def _make(self, like: Path, place: Path) -> None:
        place.mkdir() if like.is_dir() else place.touch()

    def _mount(self, place: str, *words: str) -> None:
        there = self._root / place.lstrip("/")
        run(["mount", *words, str(there)])
        self._mounted.append(there)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def run(command: list[str], *, env: Mapping[str, str] | None = None) -> None:
    """Run a command to its end; only what it says to stderr is shown, and all of it on failure."""
    ended = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(f"{ended.stdout}\n{' '.join(command)}: exit status {ended.returncode}")
