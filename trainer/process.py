"""The worker, `python -m trainer`: load the model, then serve the API over an inherited socket.

Exit status 2: this cannot work as configured; the last line on stderr says why in one sentence.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from contract import faults
from contract.messages import EXIT_REFUSED
from trainer.canary import sing
from trainer.catalog.store import find_model
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS, TrainerEngine
from trainer.loading import LoadError, in_percent, load
from trainer.logs import EventLog, configure_logs
from trainer.shares import DEFAULT_TRAIN_SHARE
from trainer.worker import Connection, run_worker

_PR_SET_PDEATHSIG = 1

log = EventLog(__name__)


def main() -> int:
    arguments = _parse()
    configure_logs(epoch=arguments.epoch)
    started = time.monotonic()
    _die_with_parent()
    faults.arm(arguments.fault)
    faults.point("worker.start")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    connection = Connection(socket.socket(fileno=arguments.fd))
    try:
        name = arguments.name or arguments.model

        def tell(text: str) -> None:
            connection.send({"kind": "loading", "text": text})

        tell(f"loading {name}")
        faults.point("worker.load")
        files = find_model(arguments.model, arguments.models_dir)
        loaded = load(
            files.directory,
            tokenizer=files.tokenizer,
            name=arguments.name or Path(arguments.model).resolve().name,
            device=arguments.device,
            dtype=arguments.dtype,
            on_progress=in_percent(lambda text: tell(f"loading {name}: {text}")),
        )
        engine = TrainerEngine(
            loaded,
            micro_batch_tokens=arguments.micro_batch_tokens,
            train_share=arguments.train_share,
        )
        canary = sing(engine)
        faults.point("worker.ready")
        log.info(
            "model_loaded",
            model=name,
            device=str(engine.describe().device),
            duration_ms=round(1000 * (time.monotonic() - started), 1),
        )
        run_worker(connection, engine, epoch=arguments.epoch, canary=canary)
    except LoadError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the supervisor shows this line
        return EXIT_REFUSED
    except (BrokenPipeError, ConnectionResetError):
        return 0
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="our end of the socket pair")
    parser.add_argument("--epoch", type=int, required=True, help="the number of this life")
    parser.add_argument("--model", required=True, help="a checkpoint directory or a pulled model")
    parser.add_argument("--models-dir", type=Path, default=Path(), help="the pulled models")
    parser.add_argument("--name", default="", help="what the model is called on the wire")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of torch; 0: its choice"
    )
    parser.add_argument(
        "--micro-batch-tokens",
        type=int,
        default=DEFAULT_MICRO_BATCH_TOKENS,
        help="positions that a train step computes at once",
    )
    parser.add_argument(
        "--train-share",
        type=float,
        default=DEFAULT_TRAIN_SHARE,
        help="part of the device's time for training while answers are waiting, too",
    )
    parser.add_argument("--fault", default="", help="for tests: see contract/faults.py")
    return parser.parse_args()


def _die_with_parent() -> None:
    """Have the kernel end us with the API process, also when it is killed while we compute."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
