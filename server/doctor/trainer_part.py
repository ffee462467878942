"""The checks that need torch: a child that is the trainer runs them, and its findings are read."""

from __future__ import annotations

import json
from collections.abc import Sequence

from contract.findings import Finding, fault
from server.children import module_command
from server.config import ServerConfig
from server.doctor.machine import Machine
from server.worker_process import model_options


def check_trainer(
    machine: Machine, config: ServerConfig, *, ours: Sequence[int], is_deep: bool
) -> list[Finding]:
    """Run `python -m trainer doctor`.

    Args:
        ours: Processes of a server that runs on the data directory, and of its worker.
        is_deep: Compare the digests of the model's files, however large they are.
    """
    words = [word for pid in ours for word in ("--ours", str(pid))]
    if is_deep:
        words.append("--deep")
    command = module_command("trainer", "doctor", "--json", *model_options(config), *words)
    ran = machine.run(command)
    try:
        found = json.loads(ran.out.splitlines()[-1])["findings"]
        return [Finding.from_json(finding) for finding in found]
    except (IndexError, KeyError, TypeError, ValueError):
        said = (ran.err.strip().splitlines() or ["it said nothing"])[-1]
        return [
            fault(
                "trainer",
                f"The trainer cannot be started (exit status {ran.status}): {said[:300]}",
                "pip install --force-reinstall 'moontune[trainer]'",
            )
        ]
