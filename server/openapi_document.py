"""docs/openapi.json, written from the routes by `make docs`."""

from __future__ import annotations

import json
import sys

from server.api.openapi import document_of
from server.app import ROUTERS


def text() -> str:
    """The document as it should stand in docs/openapi.json."""
    return json.dumps(document_of(ROUTERS), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
