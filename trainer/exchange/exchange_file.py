"""The exchange file: what the hosted service hands out and the other readers load.

A `torch.save` dict of bfloat16 tensors, no scale anywhere. Source: http-api.md section 12.6.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from contract.durable import write_file
from contract.engine import FileRef
from trainer.adapters.lora import Adapter
from trainer.exchange.errors import ExchangeError
from trainer.exchange.tensors import checked_adapter, rank_of, without_second_view
from trainer.model.config import TextConfig
from trainer.model.torch_files import TorchFileError, read_torch_file

STATE_DICT = "lora_state_dict"


@dataclass(frozen=True, kw_only=True)
class ExchangeFile:
    """What a file holds.

    Attributes:
        tensors: By exchange name, as stored.
        facts: What else it says: `finetune_id`, `step`, `rank`, `base_model`, where present.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def adapter(self, config: TextConfig) -> Adapter:
        """The adapter of float32 masters.

        Raises:
            ExchangeError: It does not fit the model, or says another rank than it has.
        """
        rank = rank_of(self.tensors)
        said = self.facts.get("rank", rank)
        if said != rank:
            raise ExchangeError(f"the file says rank {said!r}, its tensors have rank {rank}")
        return checked_adapter(self.tensors, config, rank=rank)


def write_exchange_file(
    path: Path, adapter: Adapter, *, finetune_id: str, step: int, base_model: str
) -> FileRef:
    """Write an adapter: bfloat16, contiguous, on the CPU, the first dense factor first.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        FileExistsError: The name is taken.
    """
    content = {
        STATE_DICT: {
            name: tensor.detach().to("cpu", torch.bfloat16).contiguous().clone()
            for name, tensor in adapter.tensors.items()
        },
        "finetune_id": finetune_id,
        "step": step,
        "rank": adapter.rank,
        "base_model": base_model,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return write_file(path, buffer.getbuffer())


def read_exchange_file(path: Path) -> ExchangeFile:
    """Read what `write_exchange_file` or another maker wrote; nothing in it is ever run.

    A `.safetensors` file of the same names is taken, too.

    Raises:
        ExchangeError: It is damaged, or something else.
    """
    try:
        if path.suffix == ".safetensors":
            return ExchangeFile(tensors=without_second_view(load_file(path)), facts={})
        content = read_torch_file(path)
    except (TorchFileError, SafetensorError, OSError) as error:
        raise ExchangeError(f"{path} cannot be read ({error}); fetch it again.") from error
    tensors = content.get(STATE_DICT) if isinstance(content, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise ExchangeError(
            f"{path} holds no {STATE_DICT} of tensors: it is no adapter in the exchange format."
        )
    facts = {name: content[name] for name in content if name != STATE_DICT}
    return ExchangeFile(tensors=without_second_view(tensors), facts=facts)
