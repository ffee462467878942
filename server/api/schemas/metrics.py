"""The body of a metrics call."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr
from pydantic_core import PydanticCustomError

from server.api.schemas.fields import Integer, count
from server.domain import rules
from server.domain.body import Body, Number


def _check_name(name: str) -> str:
    fault = rules.metric_name_fault(name)
    if fault is not None:
        raise PydanticCustomError("metric_name", "{fault}", {"fault": fault})
    return name


def _check_count(value: Any) -> Any:
    """Before each is looked at: a wrong one costs about a kilobyte."""
    if count(value) > rules.MAX_METRICS_PER_CALL:
        raise PydanticCustomError(
            "too_long",
            "{count} metrics were sent; a call takes at most {most}",
            {"count": count(value), "most": rules.MAX_METRICS_PER_CALL},
        )
    return value


class MetricsBody(Body):
    step: Annotated[Integer, Field(ge=0, le=rules.MAX_STEP)]
    metrics: Annotated[
        dict[Annotated[StrictStr, AfterValidator(_check_name)], Number],
        Field(min_length=1, max_length=rules.MAX_METRICS_PER_CALL),
        BeforeValidator(_check_count),
    ]
