"""docs/errors.md, written from the catalogue by `make docs`."""

from __future__ import annotations

import sys

from server.api.problems import type_of
from server.domain.error_catalogue import CATALOGUE, classes, is_resent
from server.domain.errors import ServiceError

_HEAD = """\
# Errors

Every refusal has this body, whatever refused it:

```json
{
  "detail": "...",
  "message": "a sentence: what came, what was wanted, what to do",
  "error": {"message": "...", "type": "conflict_error", "param": "rank", "code": "rank_conflict"},
  "request_id": "01JZ..."
}
```

Test against `error.code`, which stays; texts may change. `detail` is a list of faults with their
places for 400 and 422, and the message for all others. `request_id` finds the call in the server's
log. The SDK raises with the status alone and hides the body: print it with `error.read()` of the
exception, or read it afterwards in the server's log.

What the SDK sends again by itself (up to ten times, with growing pauses) is marked; everything else
is raised in your script at once. Validation failures are 422 on `/v1/tuning` and 400 elsewhere.

This page is written by `make docs` from `server/domain/error_catalogue.py`.
"""


def page() -> str:
    """The page as it should stand in docs/errors.md."""
    kinds = [kind for kind in classes() if kind.code != "caller_left"]
    table = ["| Status | Code | Sent again |", "|---|---|---|", *(_row(kind) for kind in kinds)]
    return "\n".join((_HEAD, *table, "", *(line for kind in kinds for line in _entry(kind))))


def _row(kind: type[ServiceError]) -> str:
    again = "yes" if is_resent(kind) else "no"
    return f"| {_status(kind)} | [`{kind.code}`](#{kind.code}) | {again} |"


def _entry(kind: type[ServiceError]) -> list[str]:
    entry = CATALOGUE[kind.code]
    return [
        f"## {kind.code}",
        "",
        f"Status {_status(kind)}, type `{type_of(kind.status)}`.",
        "",
        entry.when,
        "",
        f"**What to do.** {entry.advice}",
        "",
    ]


def _status(kind: type[ServiceError]) -> str:
    is_split = kind.status == 422 and kind.code != "image_url_scheme"
    return "422 or 400" if is_split else str(kind.status)


if __name__ == "__main__":
    sys.stdout.write(page())
