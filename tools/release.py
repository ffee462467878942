"""Whether this commit can be released: `make release-check`, before the tests of the built wheel.

    python -m tools.release                 says what is missing; exit status 1 if anything is
    python -m tools.release build FOLDER    the source archive and the wheel, as they are uploaded

Both archives are the same bytes whoever builds them: their times are that of the commit.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""Of changes; keepachangelog.com."""

_RELEASE = re.compile(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})")


def version() -> str:
    """The version, which stands in pyproject.toml and nowhere else."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def changelog_faults(text: str) -> list[str]:
    """Where a changelog is not in the form of keepachangelog.com."""
    lines = text.splitlines()
    releases = [line for line in lines if line.startswith("## ")]
    faults = [] if releases[:1] == ["## [Unreleased]"] else ["it does not begin with Unreleased"]
    versions: list[tuple[int, ...]] = []
    for heading in releases[1:]:
        if not (match := _RELEASE.fullmatch(heading)) or not _is_date(match[2]):
            faults.append(f"{heading!r} is not '## [1.2.3] - 2026-11-29'")
        else:
            versions.append(tuple(int(number) for number in match[1].split(".")))
    if versions != sorted(set(versions), reverse=True):
        faults.append("the releases are not in order, the newest first")
    for release in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name = release.partition("\n")[0]
        kinds = re.findall(r"^### (.*)$", release, flags=re.MULTILINE)
        faults += [f"{name} has {kind!r} as a kind of change" for kind in set(kinds) - KINDS]
        faults += [f"{name} has {kind} twice" for kind in KINDS if kinds.count(kind) > 1]
    return faults


def changes(text: str, release: str) -> str:
    """What a changelog says of a release; empty if nothing."""
    found = re.search(
        rf"^## \[{re.escape(release)}\][^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return found[1].strip() if found else ""


def build(kind: str, folder: Path, *, source: Path = ROOT, epoch: int | None = None) -> Path:
    """Build a `wheel` or an `sdist` into a folder of its own; no network is needed.

    Args:
        epoch: The time of all files in it, in seconds; that of the last commit if it is absent.
    """
    seconds = int(_git("log", "-1", "--format=%ct")) if epoch is None else epoch
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(seconds)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (built,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def missing() -> list[str]:
    """What stands in the way of a release of this commit."""
    found = [f"not committed: {line}" for line in _git("status", "--porcelain").splitlines()]
    text = (ROOT / "CHANGELOG.md").read_text()
    found += [f"CHANGELOG.md: {fault}" for fault in changelog_faults(text)]
    if not changes(text, version()):
        found.append(f"CHANGELOG.md: nothing under '## [{version()}]'")
    if changes(text, "Unreleased"):
        found.append("CHANGELOG.md: Unreleased is not empty")
    if _git("tag", "--list", f"v{version()}"):
        found.append(f"v{version()} was released before; raise the version in pyproject.toml")
    return found


def unlike_git(archive: Path) -> list[str]:
    """How the files of a source archive differ from those of the commit."""
    with tarfile.open(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    tracked = set(_git("ls-files").splitlines()) | {"PKG-INFO"}
    more, less = sorted(inside - tracked), sorted(tracked - inside)
    return [f"{archive.name} has {name}" for name in more] + [
        f"{archive.name} lacks {name}" for name in less
    ]


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Check, or build."""
    match sys.argv[1:]:
        case ["build", folder]:
            archive = build("sdist", Path(folder))
            print(archive, build("wheel", Path(folder)), sep="\n")
            found = unlike_git(archive)
        case []:
            found = missing()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    for line in found:
        print(line)
    if not found:
        print(f"moontune {version()}: as it should be")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
