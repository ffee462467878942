"""All rows, in the order of the page."""

from __future__ import annotations

from itertools import chain

from tests.compat.case import Case
from tests.compat.rows import (
    http_adapters,
    http_batch,
    http_inference,
    http_tuning,
    node_sdk,
    not_served,
    openai_client,
    scripts,
    sdk_inference,
    sdk_local,
    sdk_tuning,
)

TABLES = (
    scripts.TABLE,
    sdk_tuning.TABLE,
    sdk_inference.TABLE,
    sdk_local.TABLE,
    node_sdk.TABLE,
    openai_client.TABLE,
    http_tuning.TABLE,
    http_inference.TABLE,
    http_batch.TABLE,
    http_adapters.TABLE,
    not_served.TABLE,
)

CASES: tuple[Case, ...] = tuple(chain.from_iterable(table.cases for table in TABLES))
