"""Random weights in the published geometry, for measurements that need no real ones.

    python -m benchmarks.random_checkpoint DIR --family moondream3 --layout hf

writes what loads like a published checkpoint: names, shapes and dtypes of its layout, a config.json
that says as little, and the tokenizer of the tiny model with the ids that fit it. Moondream 3 takes
18.5 GB on disk (10.5 GB with --fp8) and 2 GB of memory while it is written. `--scale small` has the
sizes of the tiny model, to try out what will be measured.

The same seed gives the same model in both layouts; with --fp8, up to the rounding of the experts.
The end of text is unlikely, so that answers grow as long as they may. One line of JSON on stdout
says what was written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.random_checkpoint.checkpoint import SHARD_BYTES, RandomCheckpoint
from trainer.loading import DTYPES
from trainer.model.config import Family
from trainer.model.layouts import Layout

LAYOUTS = {"hf": Layout.HUGGING_FACE, "text_model": Layout.OLDER}


def main() -> int:
    arguments = _parse()
    try:
        checkpoint = RandomCheckpoint(
            family=Family(arguments.family),
            layout=LAYOUTS[arguments.layout],
            has_fp8=arguments.fp8,
            dtype=DTYPES[arguments.dtype],
            scale=arguments.scale,
            seed=arguments.seed,
            device=arguments.device,
        )
        started = time.monotonic()
        checkpoint.write(arguments.directory, shard_bytes=arguments.shard_bytes)
    except (ValueError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 2
    tensors = checkpoint.tensors()
    written = {
        "num_tensors": len(tensors),
        "gigabytes": sum(tensor.num_bytes for tensor in tensors) / 1e9,
        "seconds": time.monotonic() - started,
        "device": arguments.device,
        "torch": torch.__version__,
    }
    print(json.dumps(written))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.random_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="new or empty")
    parser.add_argument("--family", choices=[family.value for family in Family], required=True)
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="hf")
    parser.add_argument("--fp8", action="store_true", help="experts as in Moondream 3.1")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument(
        "--shard-bytes", type=int, default=SHARD_BYTES, help="most bytes of a file of layout hf"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="draws the values")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
