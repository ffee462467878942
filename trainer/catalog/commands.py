"""`python -m trainer pull|list|inspect`: what `moontune model` runs.

Exit status 1: it cannot be done, the last line on stderr says why; 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from trainer.catalog import inspection, listing
from trainer.catalog.hub import Hub, HubError
from trainer.catalog.progress import plain_progress
from trainer.catalog.pull import PullError, pull
from trainer.catalog.store import ModelStore
from trainer.loading import LoadError

INTERRUPTED = 130


def main() -> int:
    arguments = _parse()
    try:
        match arguments.verb:
            case "pull":
                _pull(arguments)
            case "list":
                _list(ModelStore(arguments.models_dir), as_json=arguments.json)
            case "inspect":
                _inspect(arguments.directory, rank=arguments.rank, as_json=arguments.json)
    except (HubError, PullError, LoadError, OSError, ValueError) as error:
        print(f"moontune: {error}", file=sys.stderr)  # noqa: T201 -- for who called us
        return 1
    except KeyboardInterrupt:
        stopped = "moontune: Stopped. The same command goes on from here."
        print(stopped, file=sys.stderr)  # noqa: T201 -- for who called us
        return INTERRUPTED
    return 0


def _pull(arguments: argparse.Namespace) -> None:
    store = ModelStore(arguments.models_dir)
    record = pull(
        arguments.repository,
        hub=Hub(progress_bar=None if sys.stderr.isatty() else plain_progress(_tell)),
        store=store,
        say=_tell,
        revision=arguments.revision,
        is_fp8=arguments.fp8,
    )
    inspection.check(store.directory(record.repository))
    if arguments.json:
        _say(json.dumps(asdict(record), indent=1))
        return
    _say(f"It is complete. Serve it by `moontune serve --model {record.repository}`.")


def _list(store: ModelStore, *, as_json: bool) -> None:
    if as_json:
        _say(json.dumps(listing.report_json(store), indent=1))
    else:
        _say_all(listing.report(store))


def _inspect(directory: Path, *, rank: int, as_json: bool) -> None:
    if as_json:
        _say(json.dumps(inspection.report_json(directory, rank=rank), indent=1))
    else:
        _say_all(inspection.report(directory, rank=rank))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    puller = verbs.add_parser("pull", help="bring a model here from the hub")
    puller.add_argument("repository", help="such as moondream/moondream3-preview")
    puller.add_argument("--revision", help="a commit, branch or tag")
    puller.add_argument("--fp8", action=argparse.BooleanOptionalAction, help="the smaller weights")
    lister = verbs.add_parser("list", help="known and pulled models, and what runs here")
    for verb in (puller, lister):
        verb.add_argument("--models-dir", type=Path, required=True, help="the pulled models")
    inspector = verbs.add_parser("inspect", help="what a checkpoint directory holds and needs")
    for verb in (puller, lister, inspector):
        verb.add_argument("--json", action="store_true", help="one JSON object as the result")
    inspector.add_argument("directory", type=Path)
    inspector.add_argument("--rank", type=int, default=32, help="of the adapter to train")
    return parser.parse_args()


def _say_all(lines: list[str]) -> None:
    for line in lines:
        _say(line)


def _say(line: str) -> None:
    """Print a result."""
    print(line, flush=True)  # noqa: T201 -- this talks to a person


def _tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 -- this talks to a person
