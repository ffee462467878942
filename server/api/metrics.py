"""Routes of metrics; http-api.md section 11."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from server.api.answers import metric_item
from server.api.deps import Account, ServicesDep, body_of, json_answer
from server.api.json_body import Parsed
from server.api.openapi import lists, reads
from server.api.pagination import PageDep, PageQuery, page_body, query_integer
from server.api.schemas.answers.metrics import MetricPage, MetricsLogged
from server.api.schemas.metrics import MetricsBody
from server.domain.errors import FinetuneNotFoundError, ValidationFailedError
from server.domain.rules import MAX_STEP

router = APIRouter(prefix="/v1/tuning/finetunes/{finetune_id}/metrics", tags=["metrics"])

LogBody = Annotated[Parsed[MetricsBody], Depends(body_of(MetricsBody))]


@router.post(
    "", response_model=MetricsLogged, openapi_extra=reads(MetricsBody, FinetuneNotFoundError)
)
async def log_metrics(
    account: Account, finetune_id: str, body: LogBody, services: ServicesDep
) -> Response:
    """Log numbers of a step; a name logged before at that step is replaced."""
    step, values = body.value.step, body.value.metrics
    await services.metrics.log_metrics(account, finetune_id, step=step, values=values)
    return json_answer({"ok": True, "step": step, "logged_count": len(values)})


@router.get(
    "",
    response_model=MetricPage,
    openapi_extra=lists(FinetuneNotFoundError),
)
async def list_metrics(
    account: Account,
    finetune_id: str,
    query: PageDep,
    services: ServicesDep,
    name: Annotated[str | None, Query(description="Only numbers of this name.")] = None,
    from_step: Annotated[str | None, Query(description="Only of this step and later.")] = None,
) -> Response:
    """List numbers by step and name; filters `name` and `from_step`."""
    page = await services.metrics.list(
        account,
        finetune_id,
        name=_checked_name(name),
        from_step=_step(from_step),
        after=_after(query),
        limit=query.limit,
    )
    return json_answer(page_body("metrics", page, metric_item))


def _checked_name(name: str | None) -> str | None:
    if name is not None and "\0" in name:
        raise ValidationFailedError(
            "name: holds the character NUL.", loc=("query", "name"), type="nul"
        )
    return name or None


def _step(text: str | None) -> int | None:
    if not text:
        return None
    return min(max(query_integer(text, "from_step"), 0), MAX_STEP)


def _after(query: PageQuery) -> tuple[int, str] | None:
    return (query.integer("step", 0), query.text("name")) if query.cursor else None
