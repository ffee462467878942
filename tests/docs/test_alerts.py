"""docs/alerts.yaml: its metrics and labels exist, and the page says what to look at for each.

Its expressions are tried by `promtool test rules tests/docs/alerts.test.yaml`, where there is one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from server.services.observation import ALL_METRICS
from tests.docs.pages import ROOT, text_of
from tests.docs.test_names import is_metric

TESTS = "tests/docs/alerts.test.yaml"
EVERY_SERIES_HAS = frozenset({"job", "instance", "le"})


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((ROOT / "docs" / "alerts.yaml").read_text())["groups"]
    return group["rules"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_what_a_rule_asks_for_is_counted(rule: dict[str, Any]) -> None:
    metrics = re.findall(r"\b(moontune_\w+)(?:{([^}]*)})?", rule["expr"])
    assert metrics or rule["expr"].startswith("up{")
    for name, selectors in metrics:
        assert is_metric(name), name
        bare = name.removesuffix("_bucket")
        labels = {*ALL_METRICS[bare].labels, *EVERY_SERIES_HAS}
        assert set(re.findall(r"(\w+)[!=]?[=~]", selectors)) <= labels
        by = {
            word
            for inside in re.findall(r"by \(([^)]*)\)", rule["expr"])
            for word in inside.split(", ")
        }
        assert by <= labels
    told = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    known = {
        label for name, _ in metrics for label in ALL_METRICS[name.removesuffix("_bucket")].labels
    }
    assert set(told) <= known | EVERY_SERIES_HAS


def test_the_page_has_every_alarm_in_the_order_of_the_file() -> None:
    rows = re.findall(r"^\| `(Moontune\w+)` \|", text_of("docs/operations.md"), re.M)
    assert rows == [rule["alert"] for rule in rules()]


def test_every_alarm_is_tried() -> None:
    cases = yaml.safe_load((ROOT / TESTS).read_text())["tests"]
    fired = {
        re.findall(r'alertname="(\w+)"', sample["labels"])[0]
        for case in cases
        for expression in case.get("promql_expr_test", ())
        for sample in expression["exp_samples"]
    }
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_they_fire_when_they_should() -> None:
    told = subprocess.run(
        ["promtool", "test", "rules", TESTS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
