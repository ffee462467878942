"""Finetunes: create, list, get, delete. Works without a worker."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from ulid import ULID

from contract.engine import ModelInfo
from contract.ids import parse_ulid
from server.db import finetunes
from server.db.connection import Database
from server.db.models import Finetune
from server.domain.clock import now_ms
from server.domain.errors import FinetuneNotFoundError, RankConflictError
from server.domain.pages import Page, cut_page
from server.domain.seeds import SeedSource
from server.services.adapters import living_finetune
from server.services.cleanup import Cleanup
from server.services.dispatch import SupervisedEngine


class Finetunes:
    """The finetunes of an account."""

    def __init__(
        self,
        database: Database,
        engine: SupervisedEngine,
        seeds: SeedSource,
        cleanup: Cleanup,
    ):
        self._database = database
        self._engine = engine
        self._seeds = seeds
        self._cleanup = cleanup

    async def create(self, account_id: str, *, name: str, rank: int) -> Finetune:
        """Return the living finetune of that name, made now unless it was there.

        Raises:
            RankConflictError: It is there with another rank.
        """
        model = self._engine.status().model
        try:
            return await self._database.write(
                _create, account_id, name=name, rank=rank, seeds=self._seeds, model=model
            )
        except IntegrityError:  # another process won the race for the name; read its row
            return await self._database.write(
                _create, account_id, name=name, rank=rank, seeds=self._seeds, model=model
            )

    async def list(self, account_id: str, *, after_ordinal: int, limit: int) -> Page[Finetune]:
        """Return living finetunes, oldest first."""
        rows = await self._database.read(
            finetunes.list_living, account_id, after_ordinal=after_ordinal, limit=limit + 1
        )
        return cut_page(rows, limit=limit, key=lambda row: {"ordinal": row.ordinal})

    async def get(self, account_id: str, finetune_id: str) -> Finetune:
        """Return one living finetune."""
        return await self._database.read(living_finetune, account_id, finetune_id)

    async def delete(self, account_id: str, finetune_id: str) -> None:
        """Make it a tombstone, again if it is one; its files go in the background.

        Raises:
            FinetuneNotFoundError: The account never had it.
        """
        finetune = await self._database.write(_delete, account_id, finetune_id)
        self._cleanup.drop_soon(finetune.id)


def _create(
    session: Session,
    account_id: str,
    *,
    name: str,
    rank: int,
    seeds: SeedSource,
    model: ModelInfo | None,
) -> Finetune:
    existing = finetunes.find_by_name(session, account_id, name)
    if existing is not None:
        if existing.rank != rank:
            raise RankConflictError(
                f"Finetune '{name}' exists with rank {existing.rank}; rank {rank} was asked for.",
                loc=("body", "rank"),
            )
        return existing
    at_ms = now_ms()
    finetune = Finetune(
        id=str(ULID()),
        account_id=account_id,
        name=name,
        rank=rank,
        adapter_seed=0,
        base_model_name=model and model.name,
        base_model_digest=model and model.digest,
        step=0,
        created_at_ms=at_ms,
        updated_at_ms=at_ms,
    )
    session.add(finetune)
    session.flush()  # gives the ordinal
    finetune.adapter_seed = seeds.adapter_seed(finetune.ordinal)
    return finetune


def _delete(session: Session, account_id: str, finetune_id: str) -> Finetune:
    parsed = parse_ulid(finetune_id)
    finetune = parsed and finetunes.find(session, account_id, parsed)
    if not finetune:
        raise FinetuneNotFoundError("There is no such finetune.")
    if finetune.deleted_at_ms is None:
        finetune.deleted_at_ms = finetune.updated_at_ms = now_ms()
    return finetune
