"""How many finetunes and how many bytes a key's account may have: lasting refusals, 403."""

from __future__ import annotations

from server.db import stored_bytes
from server.db.connection import Database
from server.domain.caller import current_caller
from server.domain.errors import ForbiddenError


class Quotas:
    """Refuses what would store more than the caller's key allows."""

    def __init__(self, database: Database):
        self._database = database

    async def require_bytes(self, account_id: str, num_bytes: int) -> None:
        """Let so many bytes be written for an account beside what it stores.

        Raises:
            ForbiddenError: That is more than the caller's key allows.
        """
        caller = current_caller()
        limit = None if caller is None else caller.limits.max_stored_bytes
        if limit is None:
            return
        stored = await self._database.read(stored_bytes.of_account, account_id)
        if stored + num_bytes > limit:
            raise ForbiddenError(
                f"This key allows its account {limit} stored bytes; there are {stored}, and this"
                f" call would write {num_bytes} more. Delete checkpoints or finetunes first, or ask"
                " who runs the server for more."
            )
