"""`moontune serve` on the oracle's checkpoints answers over HTTP what an independent one answered.

Its adapter arrives by `moontune import`, so that the cases with an adapter go the whole way, too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.config import ServerConfig
from server.travel import import_adapter
from tests import databases
from tests.forked import ForkingServer

pytestmark = pytest.mark.e2e

ORACLE = Path(__file__).parents[1] / "reference" / "oracle"
FAMILIES = ("moondream2", "moondream3")
CASES = [
    (family, case)
    for family in FAMILIES
    for case in json.loads((ORACLE / family / "cases.json").read_text())["cases"]
]
ABSOLUTE = 1e-6
LEAST_MARGIN = 0.01


@pytest.fixture(scope="module", params=FAMILIES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ForkingServer, str]]:
    """A family, a server of it, and the model id of its adapter."""
    family: str = request.param
    data_dir = tmp_path_factory.mktemp(family)
    config = ServerConfig(
        model=str(ORACLE / family),
        data_dir=data_dir,
        dtype="float32",
        database_url=databases.whole_system_url(data_dir),
    )
    arrived = import_adapter(config, ORACLE / family / "adapter.safetensors", name="oracle")
    options = ("--model", str(ORACLE / family), "--dtype", "float32")
    with ForkingServer(data_dir, *options) as server:
        yield family, server, f"moondream3-preview/{arrived.finetune_id}@0"


def question(case: dict[str, Any], family: str) -> dict[str, Any]:
    skill, argument = case["skill"], case["argument"]
    body: dict[str, Any] = {"settings": case["settings"]}
    field = {"query": "question", "caption": "length"}.get(skill, "object")
    body[field] = argument
    if case["image"] is not None:
        png = (ORACLE / family / case["image"]).read_bytes()
        body["image_url"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    if case["spatial_refs"]:
        body["spatial_refs"] = case["spatial_refs"]
    return body


@pytest.mark.xdist_group("oracle-over-http")
def test_every_case(served: tuple[str, ForkingServer, str], subtests: pytest.Subtests) -> None:
    family, server, adapted = served
    for case in [case for of, case in CASES if of == family]:
        with subtests.test(case["id"]):
            assert case["min_margin"] > LEAST_MARGIN
            body = question(case, family)
            if "adapter" in case:
                body["model"] = adapted
            answer = server.post(f"/v1/{case['skill']}", body)
            assert answer.status_code == 200, answer.text
            got = answer.json()
            for key, wanted in case["output"].items():
                if isinstance(wanted, str):
                    assert got[key] == wanted.strip()
                else:
                    assert got[key] == [pytest.approx(one, abs=ABSOLUTE) for one in wanted]
            assert got["finish_reason"] == case["finish_reason"]
