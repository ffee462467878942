"""Pages that are written from code, or that have to name everything that the code has."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import jsonschema_rs

from contract.groups import TrainOptions
from contract.stats import Metric
from server import errors_page, openapi_document
from server.api.examples import EXAMPLES
from server.config_page import page
from server.domain.error_catalogue import CATALOGUE, classes
from server.services.observation import ALL_METRICS
from trainer import memory_page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_configuration_page_is_the_one_that_the_class_writes() -> None:
    assert (DOCS / "configuration.md").read_text() == page(), "run `make docs`"


def test_the_errors_page_has_every_code_and_no_other() -> None:
    assert (DOCS / "errors.md").read_text() == errors_page.page(), "run `make docs`"
    assert {kind.code for kind in classes()} == CATALOGUE.keys()


def test_the_openapi_document_is_the_one_that_the_routes_write() -> None:
    assert (DOCS / "openapi.json").read_text() == openapi_document.text(), "run `make docs`"


def test_the_memory_page_is_the_one_that_the_formulas_write() -> None:
    assert (DOCS / "memory.md").read_text() == memory_page.page(), "run `make docs`"


def test_every_example_is_as_its_schema_says() -> None:
    for model, example in EXAMPLES.items():
        model.model_validate(example)
    document = json.loads(openapi_document.text())
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            whole = {**schema, "components": document["components"]}
            assert jsonschema_rs.is_valid(whole, example), name


def test_the_algorithms_page_has_every_option_with_its_default() -> None:
    text = (DOCS / "algorithms.md").read_text()
    for field in fields(TrainOptions):
        shown = field.default if isinstance(field.default, str) else f"{field.default:g}"
        row = [line for line in text.splitlines() if line.startswith(f"| `{field.name}`")][-1]
        default = row.split("|")[2].strip().strip("`")
        assert default == shown or float(default) == float(shown), field.name


def test_the_operations_page_has_every_metric_and_no_other() -> None:
    lines = (DOCS / "operations.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `moontune_")]
    assert rows == [row_of(metric) for metric in ALL_METRICS.values()]


def row_of(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    return f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |"
