"""The worker's log: one JSON object a line, with the facts of its event."""

from __future__ import annotations

import json
import logging

import pytest

from trainer.logs import EventLog, JsonLines


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to a log that is configured as the worker's."""
    written: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler = Handler()
    handler.setFormatter(JsonLines(epoch=3))
    logger = logging.getLogger("trainer.a-test")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    return written


def test_an_event_is_one_line_with_its_facts(lines: list[str]) -> None:
    log = EventLog("trainer.a-test")
    log.info("model_loaded", model="tiny\nforged", duration_ms=1.5)
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        log.error("call_failed", exc_info=error, verb="answer", request_id="r1", step=2)
    assert all("\n" not in line for line in lines)
    loaded, failed = map(json.loads, lines)
    assert loaded.pop("timestamp").endswith("Z")
    assert loaded == {
        "epoch": 3,
        "event": "model_loaded",
        "level": "info",
        "model": "tiny\nforged",
        "duration_ms": 1.5,
    }
    assert (failed["level"], failed["request_id"], failed["step"]) == ("error", "r1", 2)
    assert failed["exception"].endswith("ValueError: two\nlines")


def test_what_libraries_say_is_a_line_too(lines: list[str]) -> None:
    logging.getLogger("trainer.a-test").warning("%d things of %s", 2, "a library")
    (line,) = map(json.loads, lines)
    assert (line["event"], line["level"]) == ("2 things of a library", "warning")
