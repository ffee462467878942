"""What is installed is locked by its hashes, little, and free to use; bar S11."""

from __future__ import annotations

import json

import pytest

from tools.supply_chain import (
    CUDA,
    LARGE,
    LOCK,
    MAX_PACKAGES,
    ROOT,
    Lock,
    Package,
    canonical,
    counted,
    declared,
    forbidden,
    installed,
    licence_page,
    locked,
    reasons,
    sbom,
)


def lock() -> Lock:
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
    assert [name for name, (_, hashes) in found.items() if not hashes] == []
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
    by_name = {component["name"]: component for component in bill["components"]}
    (files,) = by_name["pydantic"]["externalReferences"]
    assert tuple(entry["content"] for entry in files["hashes"]) == lock()["pydantic"][1]
    without = {name for name, found in by_name.items() if "externalReferences" not in found}
    assert without == {name for name in packages if name == "torch" or name.startswith(CUDA)}


def test_the_licence_page_is_the_one_that_is_written_from_what_is_installed() -> None:
    assert (ROOT / "docs" / "licences.md").read_text() == licence_page(), "run `make docs`"


def test_the_licence_page_has_the_versions_of_the_lock() -> None:
    rows = [line.split(" | ") for line in licence_page().splitlines() if line.startswith("| ")]
    versions = {cells[0].removeprefix("| "): cells[1] for cells in rows if len(cells) == 5}
    assert versions.pop("Package") == "Version"
    assert versions.pop("torch") == installed(declared("trainer"))["torch"].version
    assert len(versions) > 80
    assert versions == {name: lock()[name][0] for name in versions}


def test_there_is_a_reason_for_every_package_that_is_asked_for() -> None:
    asked = {canonical(need.name) for need in declared("trainer", "postgres", "dev")}
    assert asked - set(reasons()) == set()
