"""The body of a metrics call."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StrictStr
from pydantic_core import PydanticCustomError

from server.api.schemas.fields import Integer
from server.domain import rules
from server.domain.body import Body, Number


def _check_name(name: str) -> str:
    fault = rules.metric_name_fault(name)
    if fault is not None:
        raise PydanticCustomError("metric_name", "{fault}", {"fault": fault})
    return name


class MetricsBody(Body):
    step: Annotated[Integer, Field(ge=0, le=rules.MAX_STEP)]
    metrics: Annotated[
        dict[Annotated[StrictStr, AfterValidator(_check_name)], Number],
        Field(min_length=1, max_length=rules.MAX_METRICS_PER_CALL),
    ]
