"""A random Moondream 3 of under 0.3M parameters, as the directory that the trainer loads.

The classes, the loading and the arithmetic are the production ones; only the sizes are small, so
that a train step takes milliseconds and a worker's life can be cut short hundreds of times.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from tests.micro import TINY, micro_model
from trainer.model.checkpoint import save_model
from trainer.model.tokenizer import TOKENIZER_FILE

MAX_PARAMETERS = 300_000
MAX_CONTEXT = 128


def write_micro_checkpoint(directory: Path) -> None:
    """Write it."""
    model = micro_model("moondream3", torch.float32, max_context=MAX_CONTEXT)
    num_parameters = model.num_parameters()
    assert num_parameters < MAX_PARAMETERS, f"{num_parameters} parameters are not micro"
    save_model(model, directory)
    shutil.copy(TINY / TOKENIZER_FILE, directory)


def main() -> int:
    """Write it into the folder that the argument names."""
    write_micro_checkpoint(Path(sys.argv[1]))
    return 0
