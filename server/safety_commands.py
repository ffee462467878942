"""`moontune verify`, `moontune backup` and `moontune restore` on the command line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from server.backup import BackupError, back_up
from server.config import DATABASE_FILE, ServerConfig, describe_faults, load_config
from server.db.migrate import SchemaError
from server.domain.errors import ServiceError
from server.restore import restore as restore_backup
from server.verification import Findings
from server.verification import verify as verify_data

NOT_GOOD = 1
WRONG_USAGE = 2
_OTHERS_SEE_NOTHING = 0o077
_MAX_SHOWN = 20

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def verify(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check the database, and every file that it names by its SHA-256; a server may run meanwhile.

    Ends with 0 when all is there and right, else with 1.
    """
    config = _config(data_dir)
    if config.database_url is None and not (config.data_dir / DATABASE_FILE).is_file():
        _fail(f"{config.data_dir} is not the data directory of a server.", WRONG_USAGE)
    try:
        findings = verify_data(config)
    except (SchemaError, ServiceError) as error:
        _fail(str(error), NOT_GOOD)
    if as_json:
        typer.echo(json.dumps(findings.as_json(), indent=1))
    else:
        _tell(findings)
    raise typer.Exit(0 if findings.is_good else NOT_GOOD)


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that is empty or not there.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Copy the database and all files that it names; a server may run meanwhile."""
    os.umask(_OTHERS_SEE_NOTHING)
    try:
        made = back_up(_config(data_dir), target)
    except BackupError as error:
        _fail(str(error), NOT_GOOD)
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=1))
    else:
        typer.echo(f"{len(made.files)} files and the database, {made.num_bytes} bytes: {target}")


def restore(
    folder: Annotated[Path, typer.Argument(help="What `moontune backup` made.")],
    data_dir: Annotated[Path, typer.Option(help="A folder that is empty or not there.")],
    as_json: AsJson = False,
) -> None:
    """Make a data directory from a backup, and check it."""
    os.umask(_OTHERS_SEE_NOTHING)
    try:
        findings = restore_backup(folder, _config(data_dir))
    except BackupError as error:
        _fail(str(error), NOT_GOOD)
    if as_json:
        typer.echo(json.dumps(findings.as_json(), indent=1))
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
    typer.echo("All is there and right." if findings.is_good else "NOT all is there and right.")


def _config(data_dir: Path | None) -> ServerConfig:
    given: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    try:
        return load_config(host="127.0.0.1", **given)  # nothing listens: no address is checked
    except ValueError as error:
        _fail(describe_faults(error), WRONG_USAGE)


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(f"moontune: {sentence}", err=True)
    raise typer.Exit(status)
