"""Routes of what an account used and what was refused to it; http-api.md 11.3."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from contract.ids import parse_ulid
from server.api.answers import refusal_item, usage_item
from server.api.csv_text import csv_answer, wants_csv
from server.api.deps import Account, ServicesDep, json_answer
from server.api.openapi import lists
from server.api.pagination import PageDep, page_body, query_integer
from server.api.schemas.answers.accounts import RefusalPage, UsagePage
from server.domain.errors import ValidationFailedError
from server.domain.usage import MAX_MS, By

CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
}

router = APIRouter(prefix="/v1/tuning", tags=["accounts"])

_NUMBERS = (
    "requests",
    "images",
    "prompt_tokens",
    "generated_tokens",
    "training_tokens",
    "steps",
    "compute_seconds",
    "stored_bytes",
)
_USAGE_COLUMNS = ("start_at_ms", "finetune_id", "key_id", *_NUMBERS)
_REFUSAL_COLUMNS = (
    "at_ms",
    "request_id",
    "method",
    "path",
    "status",
    "code",
    "message",
    "finetune_id",
)


@router.get(
    "/usage",
    response_model=UsagePage,
    responses=CSV,
    openapi_extra=lists(
        from_ms={"type": "integer", "description": "Milliseconds since 1970; from that hour on."},
        to_ms={"type": "integer", "description": "Hours that begin before."},
        by={"enum": [by.value for by in By], "default": By.HOUR.value},
    ),
)
async def usage(
    account: Account, request: Request, query: PageDep, services: ServicesDep
) -> Response:
    """What the account used, by hour, day (UTC), finetune or key; `from_ms`, `to_ms`, `by`."""
    by = _by(request)
    page = await services.books.usage(
        account,
        by=by,
        from_ms=_moment(request, "from_ms", 0),
        to_ms=_moment(request, "to_ms", MAX_MS),
        after_start_ms=query.integer("start", 0) if query.cursor and by.is_time else None,
        after_name=query.text("id") if query.cursor and not by.is_time else None,
        limit=query.limit,
    )

    def show(row: Any) -> dict[str, Any]:
        return usage_item(row, by)

    if wants_csv(request):
        return csv_answer(_USAGE_COLUMNS, map(show, page.rows), page.next_key)
    return json_answer(page_body("usage", page, show))


@router.get(
    "/refusals",
    response_model=RefusalPage,
    responses=CSV,
    openapi_extra=lists(finetune_id={"type": "string", "description": "Of this one only."}),
)
async def refusals(
    account: Account, request: Request, query: PageDep, services: ServicesDep
) -> Response:
    """What was refused to the account, newest first; filter `finetune_id`."""
    wanted = request.query_params.get("finetune_id")
    page = await services.books.refusals(
        account,
        before_id=query.integer("id", 0) if query.cursor else None,
        # An id of odd shape is nobody's; no row has it.
        finetune_id=None if not wanted else parse_ulid(wanted) or "",
        limit=query.limit,
    )
    if wants_csv(request):
        return csv_answer(_REFUSAL_COLUMNS, map(refusal_item, page.rows), page.next_key)
    return json_answer(page_body("refusals", page, refusal_item))


def _by(request: Request) -> By:
    text = request.query_params.get("by") or By.HOUR.value
    try:
        return By(text)
    except ValueError:
        raise ValidationFailedError(
            "by: should be hour, day, finetune or key.", loc=("query", "by"), type="enum"
        ) from None


def _moment(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    return min(max(query_integer(text, name), 0), MAX_MS) if text else default
