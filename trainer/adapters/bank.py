"""Which adapters and optimizer states are in memory; the files that rows name are behind them.

An adapter is known by its weights, not by its step: steps that changed nothing share one. What does
not fit the budget is dropped, least recently used first, and read again when it is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

import torch

from contract.engine import AdapterRef, FileRef
from trainer.adapters.lora import Adapter
from trainer.model.config import TextConfig
from trainer.optim import AdamState
from trainer.storage import read_tensors

DEFAULT_MAX_ADAPTERS = 32
DEFAULT_MAX_OPTIMIZERS = 8

Key = tuple[str, str]
T = TypeVar("T")


class AdapterBank:
    """Adapters and optimizer states by finetune and digest."""

    def __init__(
        self,
        config: TextConfig,
        device: torch.device,
        *,
        max_adapters: int = DEFAULT_MAX_ADAPTERS,
        max_optimizers: int = DEFAULT_MAX_OPTIMIZERS,
    ):
        self._config = config
        self._device = device
        self._adapters: _Recent[Adapter] = _Recent(max_adapters)
        self._optimizers: _Recent[AdamState] = _Recent(max_optimizers)

    def adapter(self, ref: AdapterRef) -> Adapter:
        """The adapter that a command names: from memory, from its file, or fresh from its seed.

        Raises:
            EngineFailed: Its file is missing or damaged.
        """
        key = self._key(ref)
        found = self._adapters.get(key)
        if found is None:
            if ref.weights is None:
                found = Adapter.fresh(self._config, ref.rank, seed=ref.seed, device=self._device)
            else:
                tensors = {
                    name: tensor.to(self._device, torch.float32)
                    for name, tensor in read_tensors(ref.weights).items()
                }
                found = Adapter(self._config, ref.rank, tensors)
            self._adapters.put(key, found)
        return found

    def optimizer(self, ref: AdapterRef, file: FileRef | None) -> AdamState:
        """The optimizer state that belongs to an adapter; fresh when there is no file yet."""
        if file is None:
            return AdamState.fresh(self.adapter(ref).tensors)
        key = (ref.finetune_id, file.digest)
        found = self._optimizers.get(key)
        if found is None:
            tensors = {n: t.to(self._device) for n, t in read_tensors(file).items()}
            found = AdamState.from_tensors(tensors)
            self._optimizers.put(key, found)
        return found

    def keep(
        self,
        finetune_id: str,
        weights: FileRef,
        adapter: Adapter,
        optimizer_file: FileRef,
        optimizer: AdamState,
    ) -> None:
        """Remember the outcome of a step under the digests of its files."""
        self._adapters.put((finetune_id, weights.digest), adapter)
        self._optimizers.put((finetune_id, optimizer_file.digest), optimizer)

    def drop(self, finetune_id: str) -> None:
        """Forget everything of a finetune."""
        self._adapters.drop(finetune_id)
        self._optimizers.drop(finetune_id)

    def _key(self, ref: AdapterRef) -> Key:
        return ref.finetune_id, "fresh" if ref.weights is None else ref.weights.digest


class _Recent(Generic[T]):
    """The most recently used values, at most `capacity` of them."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._values: OrderedDict[Key, T] = OrderedDict()

    def get(self, key: Key) -> T | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Key, value: T) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def drop(self, finetune_id: str) -> None:
        for key in [key for key in self._values if key[0] == finetune_id]:
            del self._values[key]
