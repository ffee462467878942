"""Models: what may be asked by which name, the base model and the account's saved checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from contract.ids import MODEL_PREFIX, CheckpointName
from server.db import checkpoints
from server.db.connection import Database
from server.db.models import Checkpoint
from server.domain.clock import now_ms
from server.domain.errors import ModelNotFoundError
from server.services.adapters import saved_checkpoint
from server.services.dispatch import SupervisedEngine

MAX_LISTED = 1000
"""Of saved checkpoints; the newest are listed."""

_BASE_OWNER = "moondream"
_VENDOR_PREFIX = "moondream/"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What can be asked by this name; `created_at_ms` of the base model is our own start."""

    id: str
    created_at_ms: int
    owned_by: str


class Models:
    """Names of models."""

    def __init__(
        self, database: Database, engine: SupervisedEngine, *, base_aliases: Sequence[str]
    ):
        self._database = database
        self._engine = engine
        self._base_aliases = tuple(dict.fromkeys((MODEL_PREFIX, *base_aliases)))
        self._started_at_ms = now_ms()

    async def list(self, account_id: str) -> list[Model]:
        """Return the base model under all its names, then saved checkpoints, newest first."""
        saved = await self._database.read(checkpoints.list_newest, account_id, limit=MAX_LISTED)
        base = [self._base(name) for name in self._base_names()]
        return base + [_saved(account_id, checkpoint) for checkpoint in saved]

    async def find(self, account_id: str, name: str) -> Model:
        """Return one model; the names are those that `resolve` knows.

        Raises:
            ModelNotFoundError: There is none of that name.
            FinetuneNotFoundError: The finetune was deleted or never was.
            CheckpointNotFoundError: The step is not saved.
        """
        if self.is_base(name):
            return self._base(name.removeprefix(_VENDOR_PREFIX))
        saved = CheckpointName.parse(name)
        if saved is None:
            raise no_such_model(("path", "model_id"))
        return await self._database.read(_read, account_id, saved)

    async def resolve(self, account_id: str, name: str | None) -> CheckpointName | None:
        """Return the checkpoint that a model string names, None for the base model.

        While the first model loads, any other name may be its own; None then, too.

        Raises:
            ServiceError: As `find`.
        """
        if name is None or self.is_base(name):
            return None
        saved = CheckpointName.parse(name)
        if saved is None:
            if not self.is_known:
                return None
            raise no_such_model()
        await self._database.read(_read, account_id, saved)
        return saved

    @property
    def is_known(self) -> bool:
        """Whether a model was loaded; before, any name may be its own."""
        return self._engine.status().model is not None

    def is_base(self, name: str | None) -> bool:
        """Whether a model string names the base model; none and an empty one do."""
        return not name or name.removeprefix(_VENDOR_PREFIX) in self._base_names()

    def _base_names(self) -> Sequence[str]:
        model = self._engine.status().model
        own = () if model is None else (model.name,)
        return tuple(dict.fromkeys((*self._base_aliases, *own)))

    def _base(self, name: str) -> Model:
        return Model(id=name, created_at_ms=self._started_at_ms, owned_by=_BASE_OWNER)


def _read(session: Session, account_id: str, name: CheckpointName) -> Model:
    _, checkpoint = saved_checkpoint(session, account_id, name.finetune_id, name.step)
    return _saved(account_id, checkpoint)


def _saved(account_id: str, checkpoint: Checkpoint) -> Model:
    name = CheckpointName(finetune_id=checkpoint.finetune_id, step=checkpoint.step)
    return Model(id=str(name), created_at_ms=checkpoint.created_at_ms, owned_by=account_id)


def no_such_model(loc: Sequence[str] = ("body", "model")) -> ModelNotFoundError:
    """The refusal of a name that means nothing."""
    return ModelNotFoundError(
        "There is no such model. Leave the field out for the base model, or name a saved"
        " checkpoint as {base}/{finetune_id}@{step}.",
        loc=loc,
    )
