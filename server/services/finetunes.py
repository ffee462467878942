"""Finetunes: create, list, get, delete. Works without a worker."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from ulid import ULID

from contract import faults
from contract.engine import FileRef, ModelInfo
from contract.ids import parse_ulid
from server.db import finetunes, idempotency_keys, train_requests
from server.db.connection import Database
from server.db.models import Finetune
from server.domain.caller import current_caller
from server.domain.clock import now_ms
from server.domain.errors import (
    FinetuneNotFoundError,
    ForbiddenError,
    OriginConflictError,
    RankConflictError,
)
from server.domain.pages import Page, cut_page
from server.domain.seeds import SeedSource
from server.files import StateFiles, copy_file
from server.services.adapters import living_finetune
from server.services.cleanup import Cleanup
from server.services.dispatch import SupervisedEngine
from server.services.ledger import Ledger
from server.services.origins import Origin, find_origin, name_in_rows
from server.services.quotas import Quotas

Also = Callable[[Session, Finetune], None]
"""What is done in the transaction that makes a finetune, such as storing the answer."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Which finetune somebody wants.

    `max_finetunes` is how many living ones their account may have; None: any number.
    """

    account_id: str
    name: str
    rank: int
    origin: Origin | None = None
    max_finetunes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a new finetune begins.

    Attributes:
        model: What is loaded, if that is known.
        base_model: Name and digest of the base model it belongs to; None: those of `model`.
        seed: Of its fresh adapter; None: drawn for it.
        weights: Its state at step 0, as rows keep it; None: the fresh adapter.
        origin: Where they are from, as rows keep it.
        manifest: Of an import.
    """

    id: str = field(default_factory=lambda: str(ULID()))
    model: ModelInfo | None = None
    base_model: tuple[str | None, str | None] | None = None
    seed: int | None = None
    weights: FileRef | None = None
    origin: str | None = None
    manifest: str | None = None


class Finetunes:
    """The finetunes of an account."""

    def __init__(
        self,
        database: Database,
        engine: SupervisedEngine,
        seeds: SeedSource,
        files: StateFiles,
        cleanup: Cleanup,
        ledger: Ledger,
        quotas: Quotas,
    ):
        self._database = database
        self._engine = engine
        self._seeds = seeds
        self._files = files
        self._cleanup = cleanup
        self._ledger = ledger
        self._quotas = quotas

    async def create(
        self,
        account_id: str,
        *,
        name: str,
        rank: int,
        origin: Origin | None = None,
        also: Also | None = None,
    ) -> Finetune:
        """Return the living finetune of that name, made now unless it was there.

        Args:
            origin: The saved checkpoint that a new one starts from; compared with that of an
                existing one only when given.
            also: Done in the same transaction, with the finetune.

        Raises:
            RankConflictError: It is there with another rank.
            OriginConflictError: It is there with another origin.
            CheckpointNotFoundError: The origin is not saved, or its finetune is not there.
            BaseModelMismatchError: The origin belongs to another base model.
            ValidationFailedError: The origin has another rank.
            ForbiddenError: The caller's key allows no further finetune, or not its bytes.
        """
        caller = current_caller()
        wish = Wish(
            account_id=account_id,
            name=name,
            rank=rank,
            origin=origin,
            max_finetunes=caller and caller.limits.max_finetunes,
        )
        existing = await self._database.read(_find_existing, wish)
        if existing is not None:
            if also is not None:
                await self._database.write(also, existing)
            return existing
        if origin is None:
            return await self._insert(wish, Start(model=self._engine.status().model), also)
        # Shielded: a copy whose row is being written must not be taken for a left-over.
        copying = self._insert_with_copy(wish, origin, also)
        return await asyncio.shield(asyncio.create_task(copying))

    async def _insert_with_copy(self, wish: Wish, origin: Origin, also: Also | None) -> Finetune:
        """Copy the weights first, under the id that the row will have."""
        start = Start(model=self._engine.status().model)
        try:
            with ExitStack() as held:
                async with self._files.lock:
                    source = await self._database.read(
                        find_origin, wish.account_id, origin, rank=wish.rank, model=start.model
                    )
                    start = dataclasses.replace(
                        start,
                        base_model=source.base_model,
                        seed=source.seed,
                        origin=source.name,
                    )
                    weights = self._files.absolute(source.weights)
                    path = Path(self._files.new_weights(start.id))
                    held.enter_context(
                        self._files.hold([str(path), *([weights.path] if weights else [])])
                    )
                if weights is not None:
                    await self._quotas.require_bytes(wish.account_id, weights.num_bytes)
                    await self._files.require_space(weights.num_bytes)
                    copied = await asyncio.to_thread(copy_file, weights, path)
                    start = dataclasses.replace(start, weights=self._files.stored(copied))
                return await self._insert(wish, start, also)
        finally:
            self._cleanup.sweep_soon(start.id)  # removes the copy unless a row names it

    async def _insert(self, wish: Wish, start: Start, also: Also | None) -> Finetune:
        try:
            made = await self._database.write(_create, wish, start, self._seeds, also)
        except IntegrityError:  # another process won the race for the name; read its row
            made = await self._database.write(_create, wish, start, self._seeds, also)
        faults.point("finetune.created")
        return made

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
        faults.point("finetune.deleted")
        self._ledger.forget(account_id, finetune.id)
        self._cleanup.drop_soon(finetune.id)


def _create(
    session: Session, wish: Wish, start: Start, seeds: SeedSource, also: Also | None
) -> Finetune:
    made = create_finetune(session, wish, start, seeds)
    if also is not None:
        also(session, made)
    return made


def create_finetune(session: Session, wish: Wish, start: Start, seeds: SeedSource) -> Finetune:
    """Return the living finetune of that name, made now unless it was there; see `create`."""
    existing = _find_existing(session, wish)
    if existing is not None:
        return existing
    at_ms = now_ms()
    model, weights = start.model, start.weights
    name, digest = start.base_model or (model and model.name, model and model.digest)
    finetune = Finetune(
        id=start.id,
        account_id=wish.account_id,
        name=wish.name,
        rank=wish.rank,
        adapter_seed=0,
        base_model_name=name,
        base_model_digest=digest,
        origin=start.origin,
        origin_manifest=start.manifest,
        origin_weights_path=weights and weights.path,
        origin_weights_digest=weights and weights.digest,
        origin_weights_num_bytes=weights and weights.num_bytes,
        step=0,
        created_at_ms=at_ms,
        updated_at_ms=at_ms,
    )
    session.add(finetune)
    session.flush()  # gives the ordinal
    fresh_seed = seeds.adapter_seed(finetune.ordinal)
    finetune.adapter_seed = fresh_seed if start.seed is None else start.seed
    faults.point("finetune.create")
    return finetune


def _find_existing(session: Session, wish: Wish) -> Finetune | None:
    existing = finetunes.find_by_name(session, wish.account_id, wish.name)
    if existing is None:
        _require_room(session, wish)
        return None
    if existing.rank != wish.rank:
        raise RankConflictError(
            f"Finetune '{wish.name}' exists with rank {existing.rank}; rank {wish.rank} was asked"
            " for.",
            loc=("body", "rank"),
        )
    origin = wish.origin
    if origin is not None and existing.origin != name_in_rows(session, wish.account_id, origin):
        raise OriginConflictError(
            f"Finetune '{wish.name}' exists and started from"
            f" {existing.origin or 'a fresh adapter'}; leave from_checkpoint out to go on with it,"
            " or choose another name.",
            loc=("body", "from_checkpoint"),
        )
    return existing


def _require_room(session: Session, wish: Wish) -> None:
    if wish.max_finetunes is None:
        return
    num_living = finetunes.count_living(session, wish.account_id)
    if num_living >= wish.max_finetunes:
        raise ForbiddenError(
            f"This key allows its account {wish.max_finetunes} finetunes; there are {num_living}."
            " Delete one first, or ask who runs the server for more."
        )


def _delete(session: Session, account_id: str, finetune_id: str) -> Finetune:
    parsed = parse_ulid(finetune_id)
    finetune = parsed and finetunes.find(session, account_id, parsed)
    if not finetune:
        raise FinetuneNotFoundError("There is no such finetune.")
    if finetune.deleted_at_ms is None:
        finetune.deleted_at_ms = finetune.updated_at_ms = now_ms()
        train_requests.drop_all_of(session, finetune.id)
        idempotency_keys.drop_all_of(session, finetune.id)
        faults.point("finetune.delete")
    return finetune
