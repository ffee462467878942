"""State files without torch: the tensors of a safetensors file, by the bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def tensors_digest(path: Path) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of the tensors.

    The metadata names the finetune, whose id is random, and is left out.
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(data[8 + length :])
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) over the file, as rows keep it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
