"""What is installed is locked by its hashes, little, and free to use; bar S11."""

from __future__ import annotations

import json

import pytest

from tools.supply_chain import (
    LARGE,
    LOCK,
    MAX_PACKAGES,
    ROOT,
    Package,
    canonical,
    counted,
    declared,
    forbidden,
    installed,
    locked,
    sbom,
)

CUDA = ("nvidia-", "cuda-", "triton", "setuptools")
"""What torch brings by its own exact pins."""


def lock() -> dict[str, tuple[str, int]]:
    return locked(LOCK.read_text())


def test_every_package_of_setup_is_locked_with_the_hash_of_each_of_its_files() -> None:
    constraints = {
        canonical(name): version
        for name, _, version in (
            line.partition("==")
            for line in (ROOT / "constraints.txt").read_text().splitlines()
            if line and not line.startswith("#")
        )
    }
    found = lock()
    assert [name for name, (_, num_hashes) in found.items() if num_hashes == 0] == []
    for name, package in installed(declared("trainer", "postgres", "dev")).items():
        if name == "torch" or name.startswith(CUDA):
            assert name not in found
            continue
        assert found[name][0] == constraints[name], "run `make lock`"
        assert package.version == constraints[name], "run `make setup`"


def test_the_service_needs_few_packages() -> None:
    assert len(installed(declared())) <= MAX_PACKAGES
    everything = installed(declared("trainer", "postgres"))
    assert len(counted(everything)) <= MAX_PACKAGES
    assert set(LARGE) <= set(everything)


def test_every_licence_is_allowed() -> None:
    assert forbidden(installed(declared("trainer", "postgres", "dev")).values()) == []


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND ISC", True),
        ("AGPL-3.0-only", False),
        ("unknown", False),
    ],
)
def test_licences_are_read_as_expressions(licence: str, is_allowed: bool) -> None:
    package = Package(name="a", version="1", licence=licence, needs=())
    assert (forbidden([package]) == []) is is_allowed


def test_the_bill_of_materials_names_every_package_and_what_it_needs() -> None:
    packages = installed(declared("trainer", "postgres"))
    bill = sbom(packages, version="0.1.0")
    assert bill == json.loads(json.dumps(bill))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    refs = {component["bom-ref"] for component in bill["components"]}
    assert len(refs) == len(packages)
    assert all(component["licenses"] for component in bill["components"])
    for entry in bill["dependencies"]:
        assert set(entry["dependsOn"]) <= refs
    graph = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    (pydantic,) = [ref for ref in refs if ref.startswith("pkg:pypi/pydantic@")]
    assert any(ref.startswith("pkg:pypi/pydantic-core@") for ref in graph[pydantic])
    assert pydantic in graph["pkg:pypi/moontune@0.1.0"]
