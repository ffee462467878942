"""`moontune doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.manners import AsJson, Exit, show_json
from server.cli.serving import DataDir, Device, Dtype, Host, Model, Port

if TYPE_CHECKING:
    from contract.findings import Finding

_MARKS = {"ok": "ok", "warning": "warn", "fault": "FAULT"}


def doctor(
    model: Model = None,
    data_dir: DataDir = None,
    host: Host = None,
    port: Port = None,
    device: Device = None,
    dtype: Dtype = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare a large model with its digests.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with this machine or installation, and say how to mend it.

    Takes the options that `serve` would get. Ends with 1 when something is wrong; warnings do not
    count. Changes nothing, and shows no key, token or password.
    """
    from server.doctor.examine import examine, is_well
    from server.doctor.machine import this_machine

    options: dict[str, Any] = {
        "model": model,
        "data_dir": data_dir,
        "host": host,
        "port": port,
        "device": device,
        "dtype": dtype,
    }
    given = {name: value for name, value in options.items() if value is not None}
    findings = examine(this_machine(), given, is_deep=deep)
    well = is_well(findings)
    if as_json:
        show_json({"is_well": well, "findings": [finding.as_json() for finding in findings]})
    else:
        _show(findings)
    raise typer.Exit(Exit.DONE if well else Exit.REFUSED)


def _show(findings: list[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = _MARKS[finding.level.value]
        typer.echo(f"{mark:<6}{finding.check:<{width}}  {finding.cause}")
        if finding.cure:
            typer.echo(f"{'':<6}{'':<{width}}  -> {finding.cure}")
    counts = {level: sum(f.level.value == level for f in findings) for level in _MARKS}
    told = (
        f"{counts['fault']} faults, {counts['warning']} warnings, {counts['ok']} checks are well."
    )
    typer.echo(f"\n{told}")
