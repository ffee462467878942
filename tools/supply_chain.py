"""What moontune is installed with: how much, under which licences, and as a bill of materials.

    python -m tools.supply_chain check          counts and licences, of what is installed here
    python -m tools.supply_chain sbom           CycloneDX 1.6 as JSON, on stdout
    python -m tools.supply_chain licences       docs/licences.md, on stdout

The lock, `requirements.lock`, has the version and the SHA-256 of each file that `make setup` may
install; only torch and what it brings for CUDA come by its own exact pins. Bar S11.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PAGE = Path(__file__).with_name("licences.template")
"""What stands around the table of docs/licences.md."""

MAX_PACKAGES = 40
CUDA = ("nvidia-", "cuda-", "triton", "setuptools")
"""What torch brings by its own exact pins: how the names begin."""

LARGE = ("torch", "transformers", "peft")
"""Worlds of their own: what they need is not counted."""

ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause"),
    *("BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "LGPL-3.0-only", "MIT", "MIT-CMU", "MPL-2.0"),
    *("PSF-2.0", "Zlib"),
}
"""By SPDX. LGPL is for psycopg, which is an extra and not changed; MPL for tqdm and certifi."""

_OLD_NAMES = {
    "Apache": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""How packages say it that do not use SPDX yet."""


Lock = dict[str, tuple[str, tuple[str, ...]]]
"""Version and SHA-256 of each file by name."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One installed package.

    Attributes:
        needs: The names of packages that it needs here.
    """

    name: str
    version: str
    licence: str
    needs: tuple[str, ...]


def canonical(name: str) -> str:
    """The one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> list[Requirement]:
    """What the project asks for itself, with some of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    words = list(project["dependencies"])
    for extra in extras:
        words += project["optional-dependencies"][extra]
    return [Requirement(word) for word in words]


def installed(requirements: Iterable[Requirement]) -> dict[str, Package]:
    """All packages that these bring, by name; what is not for this platform is passed over."""
    found: dict[str, Package] = {}
    open_ = list(requirements)
    while open_:
        requirement = open_.pop()
        name = canonical(requirement.name)
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        needed = list(_needs(package, requirement.extras))
        found[name] = Package(
            name=name,
            version=package.version.partition("+")[0],
            licence=_licence(package),
            needs=tuple(sorted({canonical(need.name) for need in needed})),
        )
        open_ += needed
    return found


def counted(packages: dict[str, Package]) -> list[str]:
    """The packages that are there for other reasons than the large ones."""
    theirs = installed(Requirement(name) for name in LARGE)
    return sorted(set(packages) - set(theirs))


def forbidden(packages: Iterable[Package]) -> list[str]:
    """Packages whose licence is not allowed: each part of an `AND`, or no part of an `OR`."""
    return [f"{p.name}: {p.licence}" for p in packages if not _is_allowed(p.licence)]


def locked(text: str) -> Lock:
    """Read a lock file."""
    found: Lock = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry):
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
            found[canonical(match[1])] = match[2], tuple(hashes)
    return found


def sbom(packages: dict[str, Package], *, version: str) -> dict[str, Any]:
    """The bill of materials; the same packages give the same bytes."""
    root = f"pkg:pypi/moontune@{version}"
    lock = locked(LOCK.read_text())
    components = [_component(packages[name], lock) for name in sorted(packages)]
    asked = {canonical(requirement.name) for requirement in declared("trainer", "postgres")}
    graph = [
        {"ref": root, "dependsOn": [_purl(packages[n]) for n in sorted(asked & set(packages))]}
    ]
    graph += [
        {
            "ref": _purl(package),
            "dependsOn": [_purl(packages[need]) for need in package.needs if need in packages],
        }
        for _, package in sorted(packages.items())
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "moontune",
                "version": version,
                "purl": root,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": graph,
    }


def _component(package: Package, lock: Lock) -> dict[str, Any]:
    """A package; torch, which is not in the lock, has no hashes."""
    is_one = re.fullmatch(r"[\w.-]+", package.licence) is not None
    licence = {"license": {"id": package.licence}} if is_one else {"expression": package.licence}
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
        "licenses": [licence],
    }
    version, hashes = lock.get(package.name, (None, ()))
    if version == package.version:
        files = {
            "type": "distribution",
            "url": f"https://pypi.org/project/{package.name}/{package.version}/",
            "comment": "The SHA-256 of each file that the lock allows.",
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in hashes],
        }
        component["externalReferences"] = [files]
    return component


def _purl(package: Package) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


def reasons() -> dict[str, str]:
    """Why each package that the project asks for is there: the comment beside it."""
    lines = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0].splitlines()
    found = (re.search(r'"([A-Za-z0-9._-]+)[^"]*"(?:,|\])\s*#\s*(.+)', line) for line in lines)
    by_name: dict[str, str] = {}
    for match in found:
        if match:
            by_name.setdefault(canonical(match[1]), match[2])
    return by_name


def licence_page() -> str:
    """The page docs/licences.md: what is installed with moontune, and the terms of the rest."""
    kinds: dict[str, tuple[str, ...]] = {"runtime": ()}
    kinds |= {extra: (extra,) for extra in ("trainer", "postgres", "dev")}
    rows: dict[str, str] = {}
    packages = installed(declared("trainer", "postgres", "dev"))
    asked = {canonical(need.name) for need in declared("trainer", "postgres", "dev")}
    why = reasons()
    for kind, extras in kinds.items():
        for name in installed(declared(*extras)):
            if name in rows or name.startswith(CUDA):
                continue
            package = packages[name]
            needed_by = [other for other, p in sorted(packages.items()) if name in p.needs]
            reason = why[name] if name in asked else f"for {', '.join(needed_by)}"
            rows[name] = f"| {name} | {package.version} | {package.licence} | {kind} | {reason} |"
    return PAGE.read_text().format(rows="\n".join(rows[name] for name in sorted(rows)))


def _needs(package: Distribution, extras: Iterable[str]) -> Iterable[Requirement]:
    for text in package.requires or ():
        need = Requirement(text)
        marker = need.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need


def _licence(package: Distribution) -> str:
    """An SPDX expression, from whichever field has it."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        return expression
    classifiers = [c for c in told.get_all("Classifier") or () if c.startswith("License ::")]
    names = [c.rpartition("::")[2].strip() for c in classifiers] or [
        told.get("License") or "unknown"
    ]
    return " OR ".join(_OLD_NAMES.get(name, name) for name in names)


def _is_allowed(expression: str) -> bool:
    plain = expression.replace("(", "").replace(")", "")
    return all(
        any(choice.strip() in ALLOWED for choice in part.split(" OR "))
        for part in plain.split(" AND ")
    )


def _version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def main() -> int:
    """Check, or print the bill of materials."""
    packages = installed(declared("trainer", "postgres"))
    if sys.argv[1:] == ["sbom"]:
        print(json.dumps(sbom(packages, version=_version()), indent=1))
        return 0
    if sys.argv[1:] == ["licences"]:
        print(licence_page(), end="")
        return 0
    if sys.argv[1:] != ["check"]:
        print(__doc__, file=sys.stderr)
        return 2
    service = installed(declared())
    wrong = forbidden(packages.values())
    print(f"{len(service)} packages for the service, {len(packages)} with trainer and PostgreSQL")
    print(f"licences: {wrong if wrong else 'all allowed'}")
    return int(bool(wrong) or len(service) > MAX_PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
