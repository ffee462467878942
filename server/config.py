"""ServerConfig: every option of the service, one documented field each; prefix MOONTUNE_.

Built once in `__main__` and handed down; nothing else reads the environment.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.work import WorkClass
from server.domain.caller import Limits
from server.domain.rules import MAX_EXAMPLES
from server.domain.train_options import OptionsBody

ENV_PREFIX = "MOONTUNE_"
DATABASE_FILE = "moontune.db"
FINETUNES_FOLDER = "finetunes"

QUICK_CALL_SECONDS = 8.0
"""Waits of a call that is to be answered within ten."""

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


class ServerConfig(BaseSettings):
    """Options of the HTTP service; lists are written with commas."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    # --- model
    model: str = Field(
        "tiny", description="Model to load: `tiny`, a checkpoint's folder or a pulled repository."
    )
    device: str = Field("auto", description="Where to compute: `auto`, `cpu`, `cuda` or `cuda:N`.")
    dtype: str = Field("auto", description="Of the weights: `auto`, `float32` or `bfloat16`.")
    seed: int | None = Field(
        None, ge=0, lt=1 << 63, description="Root of all randomness; absent: drawn at start."
    )
    model_aliases: Names = Field(
        ("moondream3-preview",), description="Names, besides its own, that mean the base model."
    )

    # --- address
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(
        None,
        description="A full key of the account `default`, beside those of `moontune keys`; without"
        " it and without any of them the server is open: no key is needed.",
    )
    allow_open: bool = Field(
        False,
        description="Allow open mode where others reach us: on an address other than the loopback,"
        " or behind `public_url`.",
    )
    allowed_hosts: Names = Field((), description="Host names accepted in open mode, besides ours.")
    cors_origins: Names = Field((), description="Web origins that browsers may call from.")

    public_url: str | None = Field(
        None, description="What callers know us by, such as `https://tune.example`, for links."
    )
    trusted_proxies: Names = Field(
        (), description="Addresses of proxies whose forwarded scheme and host are believed."
    )

    max_connections: int = Field(
        512, ge=1, description="Connections that are read from at once; more are held unread."
    )
    max_connections_per_address: int = Field(
        256,
        ge=1,
        description="The same of one address; addresses in `trusted_proxies` have no such limit.",
    )
    slow_client_seconds: float = Field(
        15.0,
        gt=0,
        description="A connection is dropped whose headers take this long, or that sends nothing"
        " of its body for this long, or less than 64 KiB of one above 4 MiB.",
    )

    # --- storage
    data_dir: Path = Field(Path("data"), description="Folder of the database and the weights.")
    database_url: str | None = Field(
        None,
        description="`postgresql://user@host/name`; absent: SQLite file `moontune.db` in"
        " `data_dir`.",
    )

    min_free_bytes: int = Field(
        256 * _MIB,
        ge=0,
        description="Free space of the disk of `data_dir` that train steps and exports leave; a"
        " call that would need it is refused with 507.",
    )

    models_dir: Path = Field(
        Path("~/.cache/moontune/models"),
        description="Folder of the models that `moontune model pull` brings.",
    )

    # --- limits of keys that have none of their own
    requests_per_minute: int | None = Field(
        None,
        ge=1,
        description="Requests of a key in a minute, then 429; also bad keys of one address.",
    )
    max_concurrent_rollouts: int | None = Field(
        None, ge=1, description="Rollouts calls of a key at once, then 429."
    )
    max_finetunes: int | None = Field(
        None,
        ge=0,
        description="Living finetunes of an account with which a key makes no other; then 403.",
    )
    max_stored_bytes: int | None = Field(
        None,
        ge=0,
        description="Bytes of an account's files beyond which a key does not train or copy; then"
        " 403.",
    )

    # --- limits of one request
    max_body_bytes: int = Field(64 * _MIB, ge=_KIB, description="Largest body, in bytes.")
    max_train_body_bytes: int = Field(
        2 * _GIB, ge=_KIB, description="Largest body of `/train_step`, in bytes."
    )
    max_queued_bytes: int = Field(
        8 * _GIB,
        ge=_MIB,
        description="Bodies of all calls together, in memory and in `data_dir`; one that does not"
        " fit is held unread.",
    )
    max_body_memory_bytes: int = Field(
        64 * _MIB,
        ge=_MIB,
        description="Of these, in memory; larger ones and the rest are in files.",
    )
    max_json_memory_bytes: int = Field(
        512 * _MIB,
        ge=_MIB,
        description="Memory for what is parsed of all bodies, pictures apart; a body that alone"
        " would take more is refused.",
    )
    max_drain_bytes: int = Field(
        4 * _GIB, ge=0, description="Of a refused body, read at most this many bytes first."
    )
    max_drain_seconds: float = Field(
        60.0, ge=0, description="Read a refused body for at most this many seconds."
    )
    max_image_bytes: int = Field(
        10 * _MIB, ge=_KIB, description="Largest image file, in bytes after base64."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Largest image, in pixels (width x height)."
    )
    max_step_pixel_bytes: int = Field(
        256 * _MIB,
        ge=_MIB,
        description="Memory for the decoded pictures of train steps that run or are next; a step"
        " that alone takes more has all of it.",
    )
    max_answer_pixel_bytes: int = Field(
        256 * _MIB,
        ge=_MIB,
        description="Memory for the decoded pictures of rollouts and inference that run; a call"
        " that alone takes more has all of it.",
    )
    max_batch_pixel_bytes: int = Field(
        128 * _MIB,
        ge=_MIB,
        description="Memory for the decoded pictures of lines of batches that run; a line that"
        " alone takes more has all of it.",
    )
    max_call_pixel_bytes: int = Field(
        4 * _GIB,
        ge=_MIB,
        description="Largest memory for the decoded pictures of one call, in bytes (3 a pixel); one"
        " that needs more is refused.",
    )
    max_groups: int = Field(
        512, ge=1, le=MAX_EXAMPLES, description="Most groups of one train step."
    )
    max_train_examples: int = Field(
        4096,
        ge=1,
        le=MAX_EXAMPLES,
        description="Most rollouts and targets of one train step together.",
    )
    max_generation_tokens: int = Field(
        4096, ge=1, description="Most tokens of one answer; larger wishes are lowered to it."
    )

    download_link_seconds: int = Field(
        3600, ge=1, description="How long a link to a file holds, of a checkpoint or of a batch."
    )

    # --- batches
    max_batch_part_bytes: int = Field(
        100 * _MIB, ge=_KIB, description="Largest part of the upload of a batch, in bytes."
    )
    max_batch_bytes: int = Field(
        2 * _GIB, ge=_KIB, description="Largest batch, all its parts together, in bytes."
    )
    max_batch_lines: int = Field(100_000, ge=1, description="Most lines of a batch.")
    max_batch_line_bytes: int = Field(
        10 * _MIB, ge=_KIB, description="Longest line of a batch, in bytes."
    )
    max_batch_output_lines: int = Field(
        10_000, ge=1, description="Most lines of one file of results."
    )
    batch_chunk_lines: int = Field(
        200,
        ge=1,
        description="After so many lines the answers of a batch are made durable; a crash costs"
        " the work on no more than these.",
    )
    batch_max_seconds: float = Field(
        7 * 86_400.0,
        gt=0,
        description="A batch that was worked on for this long, waits for other work included,"
        " fails with `timeout`.",
    )
    batch_upload_seconds: int = Field(
        86_400, ge=1, description="An upload that is not completed after this long is removed."
    )
    batch_results_seconds: int = Field(
        7 * 86_400, ge=1, description="How long a batch and its results are kept after its end."
    )

    # --- waiting and work
    rollouts_queue_seconds: float = Field(
        45.0, gt=0, description="A rollouts call waits this long to start, then 503."
    )
    rollouts_answer_seconds: float = Field(
        55.0, gt=0, description="After a dead worker, rollouts are redone only within this time."
    )
    rollout_linger_seconds: float = Field(
        60.0,
        ge=0,
        description="Rollouts whose caller has gone go on this long; the same body sent again"
        " takes them over.",
    )
    train_queue_seconds: float = Field(
        600.0, gt=0, description="A train step waits this long to start, then 503."
    )
    inference_queue_seconds: float = Field(
        300.0, gt=0, description="An inference call waits this long to start, then 503."
    )
    max_engine_calls: int = Field(
        32,
        ge=1,
        description="Rollouts and inference calls that the trainer is given at once, besides one"
        " train step; others wait in fair order.",
    )
    max_batch_calls: int = Field(
        16,
        ge=1,
        description="Lines of batches that the trainer is given at once while it has nothing else"
        " to do; beside other work, and some seconds after, an eighth of it.",
    )
    train_share: float = Field(
        0.5,
        ge=0.05,
        le=0.95,
        description="Part of the device's time for training while answers are waiting, too.",
    )
    train_options: Annotated[OptionsBody, NoDecode] = Field(
        OptionsBody(),
        description="Options of train steps that do not name them, as JSON by the names of"
        ' docs/algorithms.md, such as `{"loss": "dapo"}`.',
    )
    shutdown_grace_seconds: float = Field(
        60.0,
        ge=0,
        description="Running work, and looking at pictures, may take this long to end at shutdown.",
    )
    worker_silence_seconds: float = Field(
        300.0,
        gt=0,
        description="A worker that has work and says nothing for this long is killed and replaced.",
    )
    worker_start_seconds: float = Field(
        900.0,
        gt=0,
        description="A worker that starts and says nothing for this long is killed and replaced.",
    )
    num_image_processes: int = Field(1, ge=1, le=64, description="Processes that decode images.")
    fault: str = Field(
        "",
        description="For tests: faults to happen, such as `train.written=exit@3`;"
        " `python -m contract.faults` lists the points.",
    )
    log_level: str = Field("info", description="`debug`, `info`, `warning` or `error`.")

    @property
    def resolved_database_url(self) -> str:
        """The database to use."""
        if self.database_url is not None:
            return self.database_url
        return f"sqlite:///{self.data_dir.resolve() / DATABASE_FILE}"

    def queue_seconds(self, work_class: WorkClass | None) -> float:
        """How long a call may wait, by its class of work; None: it needs no worker."""
        if work_class is None:
            return QUICK_CALL_SECONDS
        return {
            WorkClass.ROLLOUTS: self.rollouts_queue_seconds,
            WorkClass.TRAINING: self.train_queue_seconds,
            WorkClass.INFERENCE: self.inference_queue_seconds,
            WorkClass.BATCH: self.inference_queue_seconds,
        }[work_class]

    def is_trusted_proxy(self, address: str) -> bool:
        """Whether an address is one of `trusted_proxies`."""
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        networks = (ipaddress.ip_network(proxy, strict=False) for proxy in self.trusted_proxies)
        return any(peer in network for network in networks)

    @property
    def may_be_open(self) -> bool:
        """Whether callers need no key as long as the database has none either."""
        return self.api_key is None and (self.allow_open or not self.is_exposed)

    @property
    def limits(self) -> Limits:
        """The limits of keys that have none of their own."""
        return Limits(
            requests_per_minute=self.requests_per_minute,
            max_concurrent_rollouts=self.max_concurrent_rollouts,
            max_finetunes=self.max_finetunes,
            max_stored_bytes=self.max_stored_bytes,
        )

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach us: by the address, or by a proxy at `public_url`."""
        return not self.is_loopback or self.public_url is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback_host(self.host)

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value().strip():
            return None
        key = value.get_secret_value().strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("no HTTP header can carry this key; use printable ASCII characters")
        return SecretStr(key)

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("wanted is a URL such as https://tune.example")
        return value

    @field_validator("train_options", mode="before")
    @classmethod
    def _read_train_options(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f'{value!r} is no JSON object, such as {{"beta": 0.1}}') from error

    @field_validator("train_options")
    @classmethod
    def _check_train_options(cls, value: OptionsBody) -> OptionsBody:
        if value.model_extra:
            known = ", ".join(OptionsBody.model_fields)
            raise ValueError(f"{', '.join(value.model_extra)}: no such option; there are {known}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            ipaddress.ip_network(proxy, strict=False)  # its error says what is wrong
        return value

    @field_validator("log_level")
    @classmethod
    def _check_log_level(cls, value: str) -> str:
        if value.lower() not in ("debug", "info", "warning", "error"):
            raise ValueError(f"{value!r} is not a level; use debug, info, warning or error")
        return value.lower()


def is_loopback_host(host: str) -> bool:
    """Say whether a host name or address means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_unknown_names(environment: Mapping[str, str] | None = None) -> None:
    """Refuse names under our prefix that are no options; pydantic-settings would pass over them.

    Raises:
        ValueError: Naming each, with the closest option.
    """
    known = {ENV_PREFIX + name.upper() for name in ServerConfig.model_fields}
    names = os.environ if environment is None else environment
    complaints: list[str] = []
    for name in sorted(names):
        if not name.upper().startswith(ENV_PREFIX) or name.upper() in known:
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1)
        complaints.append(f"{name} is not an option" + (f"; {close[0]} is" if close else ""))
    if complaints:
        raise ValueError(". ".join(complaints) + ".")


def load_config(**overrides: Any) -> ServerConfig:
    """Build the configuration of this process from its environment, after the name check.

    Raises:
        ValueError: A name is unknown or a value is wrong.
    """
    refuse_unknown_names()
    return ServerConfig(**overrides)


def describe_faults(error: ValueError) -> str:
    """What is wrong with the configuration, without the values, which may be secret."""
    if not isinstance(error, ValidationError):
        return str(error)
    faults = (
        (".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, "))
        for fault in error.errors(include_input=False, include_url=False)
    )
    return "; ".join(f"{name}: {message}" if name else message for name, message in faults)
