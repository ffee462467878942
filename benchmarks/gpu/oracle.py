"""The tests against an independent implementation, run on this device."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.gpu.places import ROOT
from benchmarks.gpu.report import Part, Report

ORACLE_TESTS = "tests/reference/model/test_model_oracle.py"


def start_oracle(device: str) -> subprocess.Popen[str]:
    """In a process of their own, beside everything else."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider"),
            *("-o", "addopts=--import-mode=importlib", ORACLE_TESTS),
        ],
        cwd=ROOT,
        env={**os.environ, "MOONTUNE_TEST_DEVICE": device},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_oracle(report: Report, tests: subprocess.Popen[str], part: Part) -> None:
    output, _ = tests.communicate(timeout=240)
    part["summary"] = output.strip().splitlines()[-1] if output.strip() else "no output"
    if tests.returncode:
        part["output"] = output[-6000:]
    report.check("oracle: exit status of its tests", abs(tests.returncode), bound=0.0)
