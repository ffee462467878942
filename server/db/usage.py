"""All SQL of the table usage_hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Row, case, func, or_, select
from sqlalchemy.orm import Session

from server.db.dialects import by_code_point, insert_into
from server.db.models import UsageHour
from server.domain.usage import DAY_MS, By, HourlyUsage, Usage, hour_of

_SUMS = tuple(field.name for field in fields(Usage))


@dataclass(frozen=True, kw_only=True)
class UsageSum:
    """What an account used in an hour, on a day (UTC), for a finetune, or by a key.

    `start_at_ms` is the hour or day, else the first hour that counts; `name` the id of the finetune
    or key, empty for none.
    """

    start_at_ms: int
    name: str
    usage: Usage
    stored_bytes: int


def add(session: Session, rows: Sequence[HourlyUsage]) -> None:
    """Add to what was used."""
    _upsert(session, [{**_key(row), **asdict(row.usage), "stored_bytes": 0} for row in rows])


def saw_stored_bytes(session: Session, account_id: str, *, at_ms: int, num_bytes: int) -> None:
    """Note how much an account stores."""
    row = {
        "account_id": account_id,
        "start_at_ms": hour_of(at_ms),
        "finetune_id": "",
        "key_id": "",
        **asdict(Usage()),
        "stored_bytes": num_bytes,
    }
    _upsert(session, [row])


def list_sums(
    session: Session,
    account_id: str,
    *,
    by: By,
    from_ms: int,
    to_ms: int,
    after_start_ms: int | None,
    after_name: str | None,
    limit: int,
) -> list[UsageSum]:
    """Return sums over the hours that begin in a range, by time, or by id.

    Args:
        after_start_ms: The last hour or day that is known already.
        after_name: The last id that is known already.
    """
    width_ms = DAY_MS if by is By.DAY else 1
    start = UsageHour.start_at_ms - UsageHour.start_at_ms % width_ms
    name = UsageHour.key_id if by is By.KEY else UsageHour.finetune_id
    ordered_name = by_code_point(session, name)
    columns: list[Any] = [func.min(start), func.min(name), func.max(UsageHour.stored_bytes)]
    columns += [func.sum(getattr(UsageHour, column)) for column in _SUMS]
    query: Any = select(*columns).where(
        UsageHour.account_id == account_id,
        UsageHour.start_at_ms >= from_ms,
        UsageHour.start_at_ms < to_ms,
    )
    if not by.is_time:  # a row that only says how much was stored is nobody's use
        query = query.where(or_(*(getattr(UsageHour, column) > 0 for column in _SUMS)))
    if after_start_ms is not None:
        query = query.where(start > after_start_ms)
    if after_name is not None:
        query = query.where(ordered_name > after_name)
    order: Any = func.min(start) if by.is_time else ordered_name
    query = query.group_by(start if by.is_time else name).order_by(order).limit(limit)
    return [_sum(by, row) for row in session.execute(query)]


def _sum(by: By, row: Row[Any]) -> UsageSum:
    first, name, stored, *sums = tuple[Any, ...](row)
    return UsageSum(
        start_at_ms=int(first),
        name="" if by.is_time else str(name),
        stored_bytes=int(stored) if by.is_time else 0,
        usage=Usage(**dict(zip(_SUMS, map(int, sums), strict=True))),
    )


def _key(row: HourlyUsage) -> dict[str, Any]:
    return {**asdict(row.payer), "start_at_ms": row.start_at_ms}


def _upsert(session: Session, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    insert = insert_into(session, UsageHour)
    new, old = insert.excluded, UsageHour
    changes: dict[str, Any] = {name: getattr(old, name) + getattr(new, name) for name in _SUMS}
    is_more = new.stored_bytes > old.stored_bytes
    changes["stored_bytes"] = case((is_more, new.stored_bytes), else_=old.stored_bytes)
    statement = insert.on_conflict_do_update(
        index_elements=[old.account_id, old.start_at_ms, old.finetune_id, old.key_id], set_=changes
    )
    session.execute(statement, rows)
