"""`python -m trainer export|import`: what `moontune export` and `moontune import` start.

The last line on stdout is the result as JSON. Exit status 2: this cannot work as asked, stderr says
why.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from contract.codec import to_plain
from contract.engine import AdapterRef, FileRef
from contract.errors import EngineError
from contract.messages import EXIT_REFUSED
from trainer.adapters.bank import AdapterBank
from trainer.catalog.store import ModelFiles, find_model
from trainer.exchange.errors import ExchangeError
from trainer.exchange.incoming import import_adapter
from trainer.exchange.outgoing import Export, Kind, export_exchange, export_merged, export_peft
from trainer.loading import DTYPES, LoadedModel, LoadError, in_percent, load


def main() -> int:
    arguments = _parse()
    logging.basicConfig(level=logging.WARNING)
    try:
        files = find_model(arguments.model, arguments.models_dir)
        loaded = _load(arguments, files)
        run = _export if arguments.verb == "export" else _import
        result = run(arguments, loaded, files)
    except (ExchangeError, LoadError, EngineError, SafetensorError, OSError) as error:
        print(f"moontune: {error}", file=sys.stderr)  # noqa: T201 - for who started us
        return EXIT_REFUSED
    print(json.dumps(result))  # noqa: T201
    return 0


def _export(
    arguments: argparse.Namespace, loaded: LoadedModel, files: ModelFiles
) -> dict[str, Any]:
    if arguments.base_digest and arguments.base_digest != loaded.info.digest:
        raise ExchangeError(
            f"The finetune belongs to another base model than {loaded.info.name!r}, or to another"
            " revision of it; name the one that it was trained on with --model."
        )
    ref = AdapterRef(
        finetune_id=arguments.finetune_id,
        step=arguments.step,
        rank=arguments.rank,
        seed=arguments.seed,
        weights=_weights(arguments),
    )
    config, device = loaded.model.config.text, loaded.model.text.wte.device
    export = Export.of(loaded, ref, AdapterBank(config, device).adapter(ref))
    out: Path = arguments.out
    to: Kind = arguments.to
    match to:
        case Kind.EXCHANGE:
            manifest = export_exchange(export, out)
        case Kind.PEFT:
            manifest = export_peft(export, out)
        case Kind.MERGED:
            manifest = export_merged(
                export,
                files.directory,
                out,
                dtype=DTYPES.get(arguments.dtype),
                tokenizer=files.tokenizer,
            )
    return {"manifest": manifest}


def _import(
    arguments: argparse.Namespace, loaded: LoadedModel, _files: ModelFiles
) -> dict[str, Any]:
    imported = import_adapter(
        loaded, arguments.source, arguments.weights_path, any_base=arguments.any_base
    )
    return {**to_plain(imported), "model": to_plain(loaded.info)}


def _load(arguments: argparse.Namespace, files: ModelFiles) -> LoadedModel:
    def tell(text: str) -> None:
        print(f"moontune: loading {text}", file=sys.stderr, flush=True)  # noqa: T201

    return load(
        files.directory,
        tokenizer=files.tokenizer,
        name=arguments.name or Path(arguments.model).resolve().name,
        device=arguments.device,
        dtype=arguments.dtype,
        may_keep_fp8=False,
        on_progress=in_percent(tell),
    )


def _weights(arguments: argparse.Namespace) -> FileRef | None:
    if arguments.weights is None:
        return None
    return FileRef(
        path=str(arguments.weights),
        digest=arguments.weights_digest,
        num_bytes=arguments.weights.stat().st_size,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    leaving = verbs.add_parser("export")
    leaving.add_argument("--to", type=Kind, choices=list(Kind), required=True)
    leaving.add_argument("--out", type=Path, required=True)
    leaving.add_argument("--finetune-id", required=True)
    leaving.add_argument("--step", type=int, required=True)
    leaving.add_argument("--rank", type=int, required=True)
    leaving.add_argument("--seed", type=int, required=True, help="of the fresh adapter")
    leaving.add_argument("--weights", type=Path, help="absent: the fresh adapter")
    leaving.add_argument("--weights-digest", help="SHA-256 (hex) of --weights")
    leaving.add_argument("--base-digest", help="of the model that it belongs to")
    arriving = verbs.add_parser("import")
    arriving.add_argument("--source", type=Path, required=True)
    arriving.add_argument("--weights-path", type=Path, required=True)
    arriving.add_argument("--any-base", action="store_true")
    for verb in (leaving, arriving):
        verb.add_argument("--model", required=True)
        verb.add_argument("--models-dir", type=Path, required=True, help="where pulled ones are")
        verb.add_argument("--name", default="", help="what the model is called on the wire")
        verb.add_argument("--device", default="auto")
        verb.add_argument("--dtype", choices=("auto", *DTYPES), default="auto")
    return parser.parse_args()
