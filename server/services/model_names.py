"""The names by which callers mean the base model; http-api.md 13.1."""

from __future__ import annotations

from collections.abc import Sequence

from contract.ids import MODEL_PREFIX
from server.services.dispatch import SupervisedEngine

_VENDOR_PREFIX = "moondream/"


class ModelNames:
    """Knows the aliases, and the name of what is loaded."""

    def __init__(self, engine: SupervisedEngine, aliases: Sequence[str]):
        self._engine = engine
        self._aliases = frozenset((MODEL_PREFIX, *aliases))

    @property
    def is_known(self) -> bool:
        """Whether a model was loaded; before, any name may be its own."""
        return self._engine.status().model is not None

    def is_base(self, name: str | None) -> bool:
        """Whether a name means the base model; none and an empty one do."""
        if not name:
            return True
        model = self._engine.status().model
        bare = name.removeprefix(_VENDOR_PREFIX)
        return bare in self._aliases or (model is not None and bare == model.name)
