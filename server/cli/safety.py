"""`moontune verify`, `moontune backup` and `moontune restore` on the command line."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.manners import (
    OTHERS_SEE_NOTHING,
    AsJson,
    DataDir,
    Exit,
    config_of,
    refuse,
    show_json,
)
from server.config import DATABASE_FILE

if TYPE_CHECKING:
    from server.verification import Findings

_MAX_SHOWN = 20


def verify(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check the database, and every file that it names by its SHA-256; a server may run meanwhile.

    Ends with 0 when all is there and right, else with 1.
    """
    from server.db.migrate import SchemaError
    from server.domain.errors import ServiceError
    from server.verification import verify as verify_data

    config = config_of(data_dir=data_dir)
    if config.database_url is None and not (config.data_dir / DATABASE_FILE).is_file():
        refuse(f"{config.data_dir} is not the data directory of a server.", Exit.WRONG_USAGE)
    try:
        findings = verify_data(config)
    except (SchemaError, ServiceError) as error:
        refuse(str(error))
    if as_json:
        show_json(findings.as_json())
    else:
        _tell(findings)
    raise typer.Exit(Exit.DONE if findings.is_good else Exit.REFUSED)


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that is empty or not there.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Copy the database and all files that it names; a server may run meanwhile."""
    from server.backup import BackupError, back_up

    os.umask(OTHERS_SEE_NOTHING)
    try:
        made = back_up(config_of(data_dir=data_dir), target)
    except BackupError as error:
        refuse(str(error))
    if as_json:
        show_json(asdict(made))
    else:
        typer.echo(f"{len(made.files)} files and the database, {made.num_bytes} bytes: {target}")


def restore(
    folder: Annotated[Path, typer.Argument(help="What `moontune backup` made.")],
    data_dir: Annotated[Path, typer.Option(help="A folder that is empty or not there.")],
    as_json: AsJson = False,
) -> None:
    """Make a data directory from a backup, and check it."""
    from server.backup import BackupError
    from server.restore import restore as restore_backup

    os.umask(OTHERS_SEE_NOTHING)
    try:
        findings = restore_backup(folder, config_of(data_dir=data_dir))
    except BackupError as error:
        refuse(str(error))
    if as_json:
        show_json(findings.as_json())
    else:
        _tell(findings)
        typer.echo(f"Serve it with: moontune serve --data-dir {data_dir}")


def _tell(findings: Findings) -> None:
    typer.echo(f"{findings.num_files} files are named, {findings.num_bytes} bytes.")
    for problem in findings.problems:
        typer.echo(f"{problem.kind}: {problem.path} {problem.detail}")
    if findings.unnamed:
        typer.echo(f"{len(findings.unnamed)} files are named by nobody; a server sweeps them:")
        for path in findings.unnamed[:_MAX_SHOWN]:
            typer.echo(f"  {path}")
    if findings.kept_aside:
        typer.echo(
            f"{len(findings.kept_aside)} files are kept for copies of the database that were made"
            " before its upgrades."
        )
    typer.echo("All is there and right." if findings.is_good else "NOT all is there and right.")
