"""A row of the compatibility table: one call of one client, what is expected, how it is tried."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.compat.bench import Bench

Run = Callable[["Bench"], str]
"""Tries the call; returns what was observed in a few words, or raises if it was anything else."""


class Client(Enum):
    """Who calls, in the order of the page; the value is the heading."""

    SCRIPTS = "Training scripts"
    SDK_TUNING = "Python SDK: `md.ft`"
    SDK_INFERENCE = "Python SDK: `md.vl`"
    SDK_LOCAL = "Python SDK: local inference"
    NODE = "Node SDK"
    OPENAI = "OpenAI client"
    HTTP_TUNING = "HTTP: tuning"
    HTTP_INFERENCE = "HTTP: inference and models"
    HTTP_BATCH = "HTTP: batch"
    HTTP_ADAPTERS = "HTTP: adapters, the form of December 2025"
    NOT_SERVED = "Not served"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row.

    Attributes:
        call: As a reader of the client's documentation knows it, in Markdown.
        covers: Public names of the SDK that the row tries, such as `Finetune.rollouts`.
        differs: How the outcome is another than published, in a sentence; None if it is not. `run`
            then sees to it that it is what the sentence says.
        needs: A program without which the row cannot be tried.
        is_long: Is begun first and waited for last.
    """

    client: Client
    call: str
    run: Run
    covers: tuple[str, ...] = ()
    differs: str | None = None
    needs: str | None = None
    is_long: bool = False

    @property
    def name(self) -> str:
        """Unique, and readable in the list of tests."""
        return f"{self.client.name.lower()}-{self.run.__name__}"

    @property
    def outcome(self) -> str:
        """The outcome of a row that passes."""
        return "works" if self.differs is None else f"differs: {self.differs}"

    def mentions(self, parameter: str) -> bool:
        """Whether the call shows a parameter by its name."""
        return re.search(rf"\b{re.escape(parameter)}\b", self.call) is not None


class Table:
    """The rows of one client, in the order in which they are written."""

    def __init__(self, client: Client, *, needs: str | None = None):
        self.cases: list[Case] = []
        self._client = client
        self._needs = needs

    def row(
        self, call: str, *covers: str, differs: str | None = None, is_long: bool = False
    ) -> Callable[[Run], Run]:
        """Make a function a row; its name becomes the row's."""

        def add(run: Run) -> Run:
            case = Case(
                client=self._client,
                call=call,
                run=run,
                covers=covers,
                differs=differs,
                needs=self._needs,
                is_long=is_long,
            )
            self.cases.append(case)
            return run

        return add
