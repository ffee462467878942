"""What all JSON that people write has in common: unknown names are noticed, numbers are numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Body(BaseModel):
    """Base of everything that is read from a body: unknown fields are kept apart, and reported."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
