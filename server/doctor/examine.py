"""All checks in order, from the configuration on; what they say is freed of secrets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from contract.findings import Finding, Level, fault, ok, warning
from server.config import ENV_PREFIX, ServerConfig, describe_faults, refuse_unknown_names
from server.data_lock import Holder, find_holder
from server.doctor import (
    addresses,
    databases,
    directory,
    installation,
    processes,
    trainer_part,
)
from server.doctor.machine import Machine
from server.masks import mask, secrets_of

Check = Callable[[], "Finding | list[Finding] | None"]


def examine(
    machine: Machine, options: Mapping[str, Any], *, is_deep: bool = False
) -> list[Finding]:
    """Run every check.

    Args:
        options: Of the configuration, from the command line.
        is_deep: Compare the digests of the model's files, however large they are.
    """
    config, found = _configuration(machine, options)
    holder = _holder(config)
    checks: tuple[tuple[str, Check], ...] = (
        ("python", lambda: installation.check_python(machine)),
        ("output", lambda: installation.check_output(machine)),
        ("open-files", lambda: installation.check_open_files(machine, config)),
        ("temporary", lambda: installation.check_temporary(machine)),
        ("clock", lambda: installation.check_clock(machine)),
        ("address", lambda: addresses.check_address(machine, config, holder)),
        ("exposure", lambda: addresses.check_exposure(config)),
        ("proxy", lambda: addresses.check_proxy(machine, config)),
        ("public-url", lambda: addresses.check_public_url(config, holder)),
        ("data-directory", lambda: directory.check_writable(machine, config)),
        ("owner", lambda: directory.check_owner(machine, config)),
        ("permissions", lambda: directory.check_permissions(config)),
        ("disk", lambda: directory.check_disk(machine, config)),
        ("file-system", lambda: directory.check_file_system(machine, config)),
        ("strangers", lambda: directory.check_strangers(config)),
        ("lock", lambda: directory.check_lock(machine, config, holder)),
        ("database", lambda: databases.check_database(machine, config)),
        ("copies", lambda: databases.check_copies(config)),
        ("orphans", lambda: processes.check_orphans(machine)),
        (
            "trainer",
            lambda: trainer_part.check_trainer(
                machine, config, ours=_ours(machine, holder), is_deep=is_deep
            ),
        ),
    )
    for name, check in checks:
        found += _run(name, check)
    secrets = secrets_of(machine.environment, config)
    return [
        dataclasses.replace(f, cause=mask(f.cause, secrets), cure=mask(f.cure, secrets))
        for f in found
    ]


def is_well(findings: list[Finding]) -> bool:
    """Whether nothing is wrong; warnings do not count."""
    return all(finding.level is not Level.FAULT for finding in findings)


def _run(name: str, check: Check) -> list[Finding]:
    """A check that breaks is told as such; the others go on."""
    try:
        found = check()
    except Exception as error:  # whatever a broken machine makes of a check
        kind = type(error).__name__
        return [
            warning(name, f"This could not be checked ({kind}).", "moontune doctor --json again")
        ]
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def _configuration(
    machine: Machine, options: Mapping[str, Any]
) -> tuple[ServerConfig, list[Finding]]:
    """The configuration; options that are wrong are told, and the rest is checked without them."""
    cure = "moontune config check, after a look at docs/configuration.md"
    found: list[Finding] = []
    try:
        refuse_unknown_names(machine.environment)
    except ValueError as error:
        found.append(fault("configuration", str(error), f"unset it, or correct its name: {cure}"))
    given: dict[str, Any] = {**_from_environment(machine.environment), **options}
    for _ in ServerConfig.model_fields:
        try:
            config = ServerConfig(**given)
        except ValidationError as error:
            wrong = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
            found.append(fault("configuration", f"{describe_faults(error)}.", cure))
            defaults = {name: ServerConfig.model_fields[name].default for name in wrong}
            given = {**given, **defaults}
        else:
            return config, found or [ok("configuration", "It is right.")]
    raise AssertionError("each round replaces what was wrong by its default")


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the environment says of options, by their names."""
    names = {ENV_PREFIX + name.upper(): name for name in ServerConfig.model_fields}
    return {names[key.upper()]: v for key, v in environment.items() if key.upper() in names}


def _holder(config: ServerConfig) -> Holder | None:
    try:
        return find_holder(config.data_dir)
    except OSError:
        return None


def _ours(machine: Machine, holder: Holder | None) -> list[int]:
    """The server that runs on the data directory, and its children."""
    if holder is None or holder.pid is None or not holder.is_here:
        return []
    children: list[int] = []
    for listed in machine.proc.glob(f"{holder.pid}/task/*/children"):
        try:
            children += map(int, listed.read_text().split())
        except OSError:
            continue
    return [holder.pid, *children]
