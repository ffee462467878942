"""Which adapters and optimizer states are in memory; the files that rows name are behind them.

    masters   float32, on the device, for training and export; a few
    slots     in the model's dtype, on the device, for answering; a few dozen, leased while in use
    host      what had to leave its slot; as many as some gigabytes hold
    disk      everything, so thousands of saved checkpoints can be served

An adapter is known by its weights, not by its step: steps that changed nothing share one. What does
not fit goes to the next tier, least recently used first, and comes back when it is asked for.
"""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from contract.engine import AdapterRef, FileRef
from trainer.adapters.lora import Adapter
from trainer.counters import Counters
from trainer.model.config import TextConfig
from trainer.optim import AdamState
from trainer.shelf import Shelf
from trainer.storage import read_tensors

DEFAULT_MAX_ADAPTERS = 8
DEFAULT_MAX_OPTIMIZERS = 8
DEFAULT_NUM_SLOTS = 48
DEFAULT_HOST_BYTES = 8 << 30
MAX_READING = 8
"""Files that may lie read and not used; further ones are read when it is their turn."""

Key = tuple[str, str]

TENSOR_BYTES = 600
"""What a tensor takes besides its numbers (420-590 measured); of small adapters that is much."""


class AdapterBank:
    """Adapters and optimizer states by finetune and digest.

    Args:
        dtype: What the model computes in.
        max_adapters: Masters.
        num_slots: Adapters that answers can use at the same time.
    """

    def __init__(
        self,
        config: TextConfig,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        max_adapters: int = DEFAULT_MAX_ADAPTERS,
        max_optimizers: int = DEFAULT_MAX_OPTIMIZERS,
        num_slots: int = DEFAULT_NUM_SLOTS,
        host_bytes: int = DEFAULT_HOST_BYTES,
        counters: Counters | None = None,
    ):
        self._config = config
        self._device = device
        self._dtype = dtype
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._reading: dict[Key, Future[dict[str, torch.Tensor]]] = {}
        self._masters: Shelf[Adapter] = Shelf(budget=max_adapters, size=_one)
        self._optimizers: Shelf[AdamState] = Shelf(budget=max_optimizers, size=_one)
        self._host: Shelf[Adapter] = Shelf(
            budget=host_bytes, size=_bytes_of, name="adapters_host", counters=counters
        )
        self._slots: Shelf[Adapter] = Shelf(
            budget=num_slots,
            size=_one,
            num_bytes=_bytes_of,
            name="adapters",
            counters=counters,
            on_evicted=self._to_host,
        )

    def adapter(self, ref: AdapterRef) -> Adapter:
        """The masters that a command names: from memory, from the file, or fresh from the seed.

        Raises:
            StateDamaged: Its file is missing or damaged.
        """
        key = _key(ref)
        found = self._masters.get(key)
        if found is None:
            found = self._read(ref)
            self._masters.put(key, found)
        return found

    def prepare(self, ref: AdapterRef) -> None:
        """Begin to read, in a thread, the file of an adapter that will be leased."""
        key = _key(ref)
        is_known = any(key in shelf for shelf in (self._slots, self._host, self._masters))
        if is_known or key in self._reading or len(self._reading) >= MAX_READING:
            return
        if ref.weights is not None:
            self._reading[key] = self._readers.submit(read_tensors, ref.weights)

    def forget(self, ref: AdapterRef) -> None:
        """Whoever had it prepared does not ask for it; for others it is read at its turn."""
        self._reading.pop(_key(ref), None)

    def lease(self, ref: AdapterRef) -> Adapter | None:
        """The adapter in a slot, which is its own until `release`; None while all are taken.

        Raises:
            StateDamaged: Its file is missing or damaged.
        """
        key = _key(ref)
        if key not in self._slots and not self._slots.can_take(1):
            return None
        if self._slots.get(key) is None:
            self._slots.put(key, self._fetched(key) or self._served(ref))
        return self._slots.lease(key)

    def release(self, ref: AdapterRef) -> None:
        """Give a lease back; the adapter stays in its slot until another needs it."""
        self._slots.release(_key(ref))

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
        self._masters.put((finetune_id, weights.digest), adapter)
        self._optimizers.put((finetune_id, optimizer_file.digest), optimizer)

    def drop(self, finetune_id: str) -> None:
        """Forget everything of a finetune that is not in use."""
        for shelf in (self._masters, self._optimizers, self._slots, self._host):
            shelf.drop(lambda key: isinstance(key, tuple) and key[0] == finetune_id)

    def give_up(self) -> None:
        """Free the device of what can be read again."""
        for shelf in (self._masters, self._optimizers, self._slots):
            shelf.drop()

    def _served(self, ref: AdapterRef) -> Adapter:
        """The masters in the model's dtype; themselves where that is the same."""
        masters = self._masters.get(_key(ref)) or self._read(ref)
        return masters.to(self._device, self._dtype)

    def _read(self, ref: AdapterRef) -> Adapter:
        if ref.weights is None:
            return Adapter.fresh(self._config, ref.rank, seed=ref.seed, device=self._device)
        reading = self._reading.pop(_key(ref), None)
        stored = read_tensors(ref.weights) if reading is None else reading.result()
        tensors = {name: tensor.to(self._device, torch.float32) for name, tensor in stored.items()}
        return Adapter(self._config, ref.rank, tensors)

    def _to_host(self, key: Hashable, adapter: Adapter) -> None:
        self._host.put(key, adapter.to("cpu"))

    def _fetched(self, key: Key) -> Adapter | None:
        kept = self._host.get(key)
        return None if kept is None else kept.to(self._device)


def version_of(ref: AdapterRef) -> str:
    """What tells the weights of one version from all others; equal weights have one version."""
    if ref.weights is None:
        return f"fresh, rank {ref.rank}, seed {ref.seed}"
    return ref.weights.digest


def _key(ref: AdapterRef) -> Key:
    return ref.finetune_id, version_of(ref)


def _one(_: object) -> int:
    return 1


def _bytes_of(adapter: Adapter) -> int:
    return adapter.num_bytes + TENSOR_BYTES * len(adapter.tensors)
