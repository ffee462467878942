"""Every file that rows need, with what they say of it, and by which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from contract.engine import FileRef
from server.db import batches
from server.db.files import NUM_STATES_KEPT
from server.db.models import Checkpoint, Finetune, TrainStep


@dataclass(frozen=True, kw_only=True)
class NamedFile:
    """A file, relative to the data directory, and the row that needs it, in words."""

    file: FileRef
    named_by: str


def list_named_files(session: Session) -> list[NamedFile]:
    """Return what all living finetunes and all batches need; each path once, in order.

    The same files that `files.pinned_paths` and `batches.paths_of` keep from being swept.
    """
    found: dict[str, NamedFile] = {}
    living = select(Finetune).where(Finetune.deleted_at_ms.is_(None)).order_by(Finetune.ordinal)
    for finetune in session.scalars(living).all():
        for named in _of(session, finetune):
            found.setdefault(named.file.path, named)
    for row in batches.list_all_files(session):
        by = f"{row.kind} {row.number} of batch {row.batch_id}"
        found.setdefault(row.path, NamedFile(file=row.file, named_by=by))
    return sorted(found.values(), key=lambda named: named.file.path)


def _of(session: Session, finetune: Finetune) -> Iterator[NamedFile]:
    def named(file: FileRef | None, by: str) -> Iterator[NamedFile]:
        if file is not None:
            yield NamedFile(file=file, named_by=f"{by} of finetune {finetune.id}")

    saved = select(Checkpoint).where(
        Checkpoint.finetune_id == finetune.id, Checkpoint.deleted_at_ms.is_(None)
    )
    for checkpoint in session.scalars(saved):
        yield from named(checkpoint.weights, f"saved step {checkpoint.step}")
        yield from named(checkpoint.exchange, f"the exchange file of step {checkpoint.step}")
    states = select(TrainStep).where(
        TrainStep.finetune_id == finetune.id, TrainStep.step > finetune.step - NUM_STATES_KEPT
    )
    for step in session.scalars(states):
        yield from named(step.weights, f"step {step.step}")
        yield from named(step.optimizer, f"the optimizer at step {step.step}")
    if finetune.step < NUM_STATES_KEPT:
        yield from named(finetune.origin_weights, "the origin")
