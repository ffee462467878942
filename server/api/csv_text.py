"""Lists as CSV, for who opens them in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from server.api.pagination import encode_cursor

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
NEXT_CURSOR_HEADER = "X-Next-Cursor"


def wants_csv(request: Request) -> bool:
    """Whether CSV was asked for rather than JSON."""
    kinds = [
        kind.partition(";")[0].strip() for kind in request.headers.get("accept", "").split(",")
    ]
    return "text/csv" in kinds


def csv_answer(
    columns: Sequence[str], rows: Iterable[dict[str, Any]], next_key: dict[str, Any] | None
) -> Response:
    """An answer of CSV with a line of names; the cursor of the next page is in a header."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(row.get(column)) for column in columns])
    headers = {} if next_key is None else {NEXT_CURSOR_HEADER: encode_cursor(next_key)}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def cell(value: Any) -> str:
    """A cell that no spreadsheet takes for a formula; None is empty."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
