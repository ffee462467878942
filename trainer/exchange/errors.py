"""Why an adapter does not travel."""

from __future__ import annotations


class ExchangeError(ValueError):
    """It cannot leave or arrive; the message says what came, what was wanted and what to do."""
