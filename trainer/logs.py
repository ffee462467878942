"""How the worker logs: one JSON line per event on standard error, as the API does.

    log = EventLog(__name__)
    log.warning("train_step_out_of_memory", finetune_id=..., step=...)

    {"epoch": 3, "event": "train_step_out_of_memory", "level": "warning", "finetune_id": ...}

Facts are ids, counts and durations; never a prompt, an answer or a picture.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_FACTS = "moontune_facts"


class EventLog:
    """The events of one module; `exc_info` as `logging` takes it."""

    def __init__(self, name: str):
        self._logger = logging.getLogger(name)

    def info(self, event: str, **facts: Any) -> None:
        """What went as it should."""
        self._write(logging.INFO, event, facts)

    def warning(self, event: str, exc_info: BaseException | None = None, **facts: Any) -> None:
        """What went otherwise, and is dealt with."""
        self._write(logging.WARNING, event, facts, exc_info)

    def error(self, event: str, exc_info: BaseException | None = None, **facts: Any) -> None:
        """What failed."""
        self._write(logging.ERROR, event, facts, exc_info)

    def _write(
        self, level: int, event: str, facts: dict[str, Any], exc_info: BaseException | None = None
    ) -> None:
        self._logger.log(level, event, exc_info=exc_info, extra={_FACTS: facts})


class JsonLines(logging.Formatter):
    """A record as one line of JSON; control characters are escaped, as JSON does.

    Args:
        always: Facts of every line, such as the epoch of this worker.
    """

    def __init__(self, **always: Any):
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """Render it; what JSON does not know is written as its text."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat()
        line = {**self._always, "event": record.getMessage(), "level": record.levelname.lower()}
        line |= getattr(record, _FACTS, {})
        line["timestamp"] = at.replace("+00:00", "Z")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logs(*, epoch: int) -> None:
    """Write events of this process, and warnings of its libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(epoch=epoch))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
