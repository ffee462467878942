"""`python -m trainer doctor`: the checks of the machine that computes, as lines or as JSON.

Exit status 0 when nothing is wrong, else 1. Runs without torch, which it then finds missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from contract.findings import Finding, Level, fault
from trainer.doctor import gpus, packages
from trainer.doctor.facts import Facts, gather


def main() -> int:
    """Check, tell, and return the exit status."""
    arguments = _parse()
    facts = gather(os.environ)
    findings = examine(arguments, facts)
    if arguments.json:
        print(json.dumps({"findings": [f.as_json() for f in findings]}))  # noqa: T201 -- the result
    else:
        for finding in findings:
            print(f"{finding.level.value:<8} {finding.check:<12} {finding.cause} {finding.cure}")  # noqa: T201 -- the result
    return int(any(finding.level is Level.FAULT for finding in findings))


def examine(arguments: argparse.Namespace, facts: Facts) -> list[Finding]:
    """All checks, in the order in which one would mend."""
    device, ours = arguments.device, frozenset(arguments.ours)
    found = [
        packages.check_packages(),
        packages.check_torch(facts),
        gpus.check_gpu(facts, device=device, is_tiny=arguments.name == "tiny"),
        gpus.check_build(facts, device=device),
        gpus.check_visibility(facts, device=device),
        gpus.check_mode(facts, device=device, ours=ours),
    ]
    if all(finding is None or finding.level is not Level.FAULT for finding in found[:2]):
        found += _of_model(arguments, facts)
    return [finding for finding in found if finding is not None]


def _of_model(arguments: argparse.Namespace, facts: Facts) -> list[Finding]:
    """Imported only here: it needs torch, which may be what is broken."""
    from trainer.catalog.hub import Hub
    from trainer.doctor import models

    try:
        found = [
            models.check_model(
                arguments.model, arguments.models_dir, hub=Hub(), is_deep=arguments.deep
            )
        ]
        size = models.size_of(arguments.model, arguments.models_dir)
        if size is not None:
            found.append(
                models.check_memory(
                    facts,
                    size,
                    device=arguments.device,
                    dtype=arguments.dtype,
                    ours=frozenset(arguments.ours),
                    host=models.host_memory(),
                )
            )
    except OSError as error:
        found = [
            fault(
                "model",
                f"{error.filename or arguments.model} cannot be read: {error.strerror}.",
                "see to its owner and permissions",
            )
        ]
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    doctor = parser.add_subparsers(dest="verb", required=True).add_parser("doctor")
    doctor.add_argument("--json", action="store_true", help="one JSON object as the result")
    doctor.add_argument("--model", required=True, help="a checkpoint directory or a repository")
    doctor.add_argument("--models-dir", type=Path, default=Path(), help="the pulled models")
    doctor.add_argument("--name", default="", help="what the model is called on the wire")
    doctor.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    doctor.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    doctor.add_argument("--deep", action="store_true", help="compare digests of any size")
    doctor.add_argument(
        "--ours",
        type=int,
        action="append",
        default=[],
        help="a process that serves with this configuration already; may be given again",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
