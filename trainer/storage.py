"""State files of the trainer: tensors as safetensors, written by `contract.durable`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from contract import durable, faults
from contract.durable import Buffer, NewFile
from contract.engine import FileRef
from contract.errors import StateDamaged

_ALIGNMENT = 8
_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}


def write_all(
    files: Mapping[Path, Mapping[str, Tensor]], facts: Mapping[str, str]
) -> list[FileRef]:
    """Write files that belong together: all of them, or none.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        OSError: The disk failed; nothing is left behind.
        FileExistsError: A name is taken; names are never reused.
    """
    return durable.write_files(
        [
            NewFile(path=path, buffers=_safetensors(tensors, facts))
            for path, tensors in files.items()
        ]
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> FileRef:
    """Write a safetensors file durably.

    Equal tensors and facts give equal bytes, and so the same digest.

    Args:
        facts: For people who look into the file; nothing reads them.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        OSError: The disk failed; nothing is left behind.
        FileExistsError: The name is taken; names are never reused.
    """
    return write_all({path: tensors}, facts)[0]


def read_tensors(file: FileRef) -> dict[str, Tensor]:
    """Read a file that a row names, and refuse it when its bytes are not the ones that were
    written.

    Raises:
        StateDamaged: It is not there, or not ours to read, or its bytes are others.
        OSError: The disk failed.
    """
    faults.point("adapter.load")
    try:
        data = Path(file.path).read_bytes()
    except durable.NOT_READABLE as error:
        raise StateDamaged(f"The state file cannot be read: {error}.") from error
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise StateDamaged(f"The state file {file.path} is damaged: its SHA-256 differs.")
    return safetensors.torch.load(data)


def _safetensors(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> list[Buffer]:
    """The pieces of a safetensors file: its header, and the memory of the tensors, not copied.

    The library would join them into one piece, once more in memory, and the metadata in an order
    that changes from call to call; its bytes are these otherwise. The widest dtype comes first, so
    that everything is aligned.
    """
    hosted = _on_host(tensors)
    header: dict[str, object] = {
        "__metadata__": {"moontune": json.dumps(dict(facts), sort_keys=True)}
    }
    buffers: list[Buffer] = []
    end = 0
    for name in sorted(hosted, key=lambda name: (-hosted[name].itemsize, name)):
        tensor = hosted[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        buffers.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *buffers]


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in memory, each in one piece; a device copies them all before it is waited for."""
    hosted = {
        name: tensor.detach().to("cpu", non_blocking=tensor.is_cuda)
        for name, tensor in tensors.items()
    }
    for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(device))
        copied.synchronize()
    return {name: tensor.contiguous() for name, tensor in hosted.items()}
