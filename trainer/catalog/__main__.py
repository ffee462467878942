"""`python -m trainer.catalog pull|list|inspect`: what `moontune model` runs.

Exit status 1: it cannot be done, the last line on stderr says why; 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys
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
                _say_all(listing.report(ModelStore(arguments.models_dir)))
            case "inspect":
                _say_all(inspection.report(arguments.directory, rank=arguments.rank))
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
        hub=Hub(progress_bar=None if sys.stderr.isatty() else plain_progress(_say)),
        store=store,
        say=_say,
        revision=arguments.revision,
        is_fp8=arguments.fp8,
    )
    inspection.check(store.directory(record.repository))
    _say(f"It is complete. Serve it by `moontune serve --model {record.repository}`.")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer.catalog", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    puller = verbs.add_parser("pull", help="bring a model here from the hub")
    puller.add_argument("repository", help="such as moondream/moondream3-preview")
    puller.add_argument("--revision", help="a commit, branch or tag")
    puller.add_argument("--fp8", action=argparse.BooleanOptionalAction, help="the smaller weights")
    lister = verbs.add_parser("list", help="known and pulled models, and what runs here")
    for verb in (puller, lister):
        verb.add_argument("--models-dir", type=Path, required=True, help="the pulled models")
    inspector = verbs.add_parser("inspect", help="what a checkpoint directory holds and needs")
    inspector.add_argument("directory", type=Path)
    inspector.add_argument("--rank", type=int, default=32, help="of the adapter to train")
    return parser.parse_args()


def _say_all(lines: list[str]) -> None:
    for line in lines:
        _say(line)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 -- this talks to a person


if __name__ == "__main__":
    sys.exit(main())
