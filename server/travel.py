"""`moontune export` and `moontune import`: what rows know, and the trainer that does the work.

Both work beside a running server: an export only reads, an import adds one finetune.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from contract.engine import AdapterRef, FileRef
from contract.ids import CheckpointName
from server.children import module_command, module_environment
from server.config import DATABASE_FILE, ServerConfig
from server.db import api_keys, checkpoints, finetunes, migrate
from server.db.connection import Database
from server.domain import rules
from server.domain.caller import DEFAULT_ACCOUNT
from server.domain.errors import ServiceError
from server.domain.seeds import SeedSource
from server.files import StateFiles
from server.open_database import open_database
from server.services.adapters import living_finetune
from server.services.checkpoints import save_origin
from server.services.finetunes import Start, Wish, create_finetune
from server.sweep_lease import reading_all
from server.worker_process import model_options


class TravelError(Exception):
    """An adapter cannot leave or arrive; the message is a sentence, or empty if it was said."""


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A finetune that was imported."""

    finetune_id: str
    rank: int
    agreement: dict[str, Any]


def export_checkpoint(config: ServerConfig, name: str, *, to: str, out: Path) -> dict[str, Any]:
    """Write a saved checkpoint in another format; returns the manifest.

    Args:
        name: `finetune_id@step`, with or without a base in front.
        to: `exchange`, `peft` or `merged`.

    Raises:
        TravelError: Why not.
    """
    wanted = CheckpointName.parse(name)
    if wanted is None:
        raise TravelError(f"{name} names no saved checkpoint; write FINETUNE_ID@STEP.")
    if config.database_url is None and not (config.data_dir / DATABASE_FILE).is_file():
        raise TravelError(
            f"{config.data_dir} is not the data directory of a server; name it with --data-dir."
        )
    if out.exists():
        raise TravelError(f"{out} exists already; name something that does not.")
    with _open_database(config) as database:
        adapter, base_digest = database.read_blocking(_saved, wanted)
    weights = StateFiles(config.data_dir).absolute(adapter.weights)
    facts = {
        "to": to,
        "out": out.absolute(),
        "finetune-id": adapter.finetune_id,
        "step": adapter.step,
        "rank": adapter.rank,
        "seed": adapter.seed,
    }
    if base_digest is not None:
        facts["base-digest"] = base_digest
    if weights is not None:
        facts |= {"weights": weights.path, "weights-digest": weights.digest}
    return _run_trainer("export", config, facts)["manifest"]


def import_adapter(
    config: ServerConfig,
    source: Path,
    *,
    name: str,
    account_id: str = DEFAULT_ACCOUNT,
    any_base: bool = False,
) -> Arrived:
    """Make a finetune of an exchange file or a PEFT directory; its step 0 is saved at once.

    Until its row is there no server that starts removes its folder, which no row names.

    Raises:
        TravelError: Why not; nothing is kept.
    """
    if not rules.is_finetune_name(name):
        proposal = rules.propose_finetune_name(name)
        raise TravelError(
            f"A name has 1-128 characters of A-Z a-z 0-9 . _ -; for instance '{proposal}'."
        )
    files = StateFiles(config.data_dir)
    start = Start()
    with _open_database(config) as database, reading_all(config.data_dir):
        database.read_blocking(_require_free_name, account_id, name)
        path = Path(files.new_weights(start.id))
        facts = {"source": source.absolute(), "weights-path": path}
        try:
            result = _run_trainer("import", config, facts, *(["--any-base"] if any_base else []))
            weights = FileRef(**result["weights"])
            start = Start(
                id=start.id,
                base_model=(result["model"]["name"], result["model"]["digest"]),
                seed=0,  # of the fresh adapter that it never had
                weights=files.stored(weights),
                origin=f"import:{result['source_digest']}",
                manifest=json.dumps(result["manifest"]),
            )
            wish = Wish(account_id=account_id, name=name, rank=result["rank"])
            database.write_blocking(_insert, wish, start)
        except BaseException:
            if not database.read_blocking(_is_known, start.id):  # the row may be there all the same
                files.remove([path])
            raise
    return Arrived(
        finetune_id=start.id, rank=result["rank"], agreement=result["manifest"]["agreement"]
    )


@contextmanager
def _open_database(config: ServerConfig) -> Generator[Database]:
    """The database of a data directory, at the schema of this release."""
    try:
        with open_database(config) as database:
            yield database
    except migrate.SchemaError as error:
        raise TravelError(str(error)) from error
    except ServiceError as error:
        raise TravelError(error.message) from error


def _run_trainer(
    verb: str, config: ServerConfig, facts: dict[str, Any], *flags: str
) -> dict[str, Any]:
    """Run one verb of the trainer; its stderr is ours, with the reason of a refusal."""
    words = [word for key, value in facts.items() for word in (f"--{key}", str(value))]
    command = module_command("trainer", verb, *words, *flags, *model_options(config))
    ended = subprocess.run(
        command, env=module_environment(), stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        raise TravelError(
            f"The trainer was ended by {name}; if memory was short, try --dtype bfloat16."
        )
    if ended.returncode != 0 or not ended.stdout:
        raise TravelError("")
    return json.loads(ended.stdout.splitlines()[-1])


def _saved(session: Session, wanted: CheckpointName) -> tuple[AdapterRef, str | None]:
    owner = finetunes.find_owner(session, wanted.finetune_id)
    finetune = living_finetune(session, owner or DEFAULT_ACCOUNT, wanted.finetune_id)
    checkpoint = checkpoints.find_living(session, finetune.id, wanted.step)
    if checkpoint is None:
        saved: Sequence[int] = checkpoints.nearest_steps(session, finetune.id, wanted.step, limit=5)
        listed = ", ".join(map(str, sorted(saved))) or "none"
        raise TravelError(f"Step {wanted.step} is not saved; saved are: {listed}.")
    adapter = AdapterRef(
        finetune_id=finetune.id,
        step=checkpoint.step,
        rank=finetune.rank,
        seed=finetune.adapter_seed,
        weights=checkpoint.weights,
    )
    return adapter, finetune.base_model_digest


def _is_known(session: Session, finetune_id: str) -> bool:
    return finetunes.find_owner(session, finetune_id) is not None


def _require_free_name(session: Session, account_id: str, name: str) -> None:
    if api_keys.find_account(session, account_id) is None:
        raise TravelError(
            f"There is no account '{account_id}'; `moontune keys create --account` makes one."
        )
    existing = finetunes.find_by_name(session, account_id, name)
    if existing is not None:
        raise TravelError(f"There is a finetune '{name}' ({existing.id}); choose another --name.")


def _insert(session: Session, wish: Wish, start: Start) -> None:
    _require_free_name(session, wish.account_id, wish.name)
    finetune = create_finetune(session, wish, start, SeedSource(0))
    save_origin(session, finetune)
