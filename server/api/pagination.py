"""Pages on the wire: clamped limits, opaque cursors, one answer shape."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Query
from pydantic_core import from_json

from server.domain.errors import ValidationFailedError
from server.domain.pages import DEFAULT_LIMIT, MAX_LIMIT, Page

T = TypeVar("T")

_MAX_CURSOR_LENGTH = 1024
_MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class PageQuery:
    """Which page was asked for; `cursor` is the decoded object, empty at the beginning."""

    limit: int
    cursor: dict[str, Any]

    def integer(self, key: str, default: int) -> int:
        """Return a number of the cursor.

        Raises:
            ValidationFailedError: The cursor is not one of this list.
        """
        value = self.cursor.get(key) if self.cursor else default
        if type(value) is not int or not -1 <= value <= _MAX_INTEGER:
            raise bad_cursor()
        return value

    def text(self, key: str) -> str:
        """Return a text of the cursor.

        Raises:
            ValidationFailedError: The cursor is not one of this list.
        """
        value = self.cursor.get(key)
        if not isinstance(value, str) or "\0" in value:
            raise bad_cursor()
        return value


Limit = Annotated[
    str | None, Query(description="How many at most: 1-100, 20 if it is not given, 50 of batches.")
]
Cursor = Annotated[str | None, Query(description="The next_cursor of the page before.")]


def page_query(
    limit: Limit = None, cursor: Cursor = None, *, default_limit: int = DEFAULT_LIMIT
) -> PageQuery:
    """Read `limit` and `cursor` of a request."""
    return PageQuery(
        limit=default_limit if not limit else clamp_limit(limit),
        cursor={} if not cursor else decode_cursor(cursor),
    )


def default_page_query(limit: Limit = None, cursor: Cursor = None) -> PageQuery:
    """As `page_query`, for most lists."""
    return page_query(limit, cursor)


PageDep = Annotated[PageQuery, Depends(default_page_query)]


def clamp_limit(text: str) -> int:
    """Return a limit between 1 and 100.

    Raises:
        ValidationFailedError: The text is not an integer.
    """
    return min(max(query_integer(text, "limit"), 1), MAX_LIMIT)


def query_integer(text: str, name: str) -> int:
    """Read an integer of the query string.

    Raises:
        ValidationFailedError: The text is not an integer.
    """
    try:
        return int(text)
    except ValueError:
        raise ValidationFailedError(
            f"{name}: should be an integer.", loc=("query", name), type="int_parsing"
        ) from None


def encode_cursor(key: dict[str, Any]) -> str:
    """Return the opaque text of a key: base64url of its JSON, without padding."""
    text = json.dumps(key, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> dict[str, Any]:
    """Return the key of a cursor.

    Raises:
        ValidationFailedError: It cannot be read.
    """
    if len(cursor) > _MAX_CURSOR_LENGTH:
        raise bad_cursor()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = from_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except ValueError:
        raise bad_cursor() from None
    if not isinstance(key, dict) or not key:
        raise bad_cursor()
    return cast("dict[str, Any]", key)


def bad_cursor() -> ValidationFailedError:
    """The refusal of a cursor that is none of ours."""
    return ValidationFailedError(
        "cursor: should be the next_cursor of an earlier answer of this list.",
        loc=("query", "cursor"),
    )


def page_body(name: str, page: Page[T], show: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """Return the answer of a list."""
    return {
        name: [show(row) for row in page.rows],
        "next_cursor": None if page.next_key is None else encode_cursor(page.next_key),
        "has_more": page.next_key is not None,
    }
