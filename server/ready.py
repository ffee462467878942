"""What `moontune serve` says when it is ready: what to do, on stderr, then one line on stdout.

The line is written for people and read by `moontune demo`; with `--json` it is an object instead.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from contract.engine import ModelInfo
from server.config import ServerConfig

PREFIX = "moontune ready: "

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What is said when a server is ready.

    Attributes:
        result: One line for stdout.
        advice: Lines for people, for stderr.
    """

    result: str
    advice: tuple[str, ...] = ()


class Announce(Protocol):
    """What to say when the model answers."""

    def __call__(
        self, config: ServerConfig, url: str, model: ModelInfo, *, is_open: bool
    ) -> Announcement:
        """As `banner` and `ready_json`; `is_open` is whether callers need no key."""
        ...


def banner(config: ServerConfig, url: str, model: ModelInfo, *, is_open: bool) -> Announcement:
    """For people: the ready line, who may call, and a first script."""
    lines = (key_state(config, is_open=is_open), "A first train step, with the SDK unchanged:", "")
    indented = tuple(f"    {line}" for line in snippet(url, is_open=is_open))
    return Announcement(result=ready_line(url, model), advice=(*lines, *indented, ""))


def ready_json(config: ServerConfig, url: str, model: ModelInfo, *, is_open: bool) -> Announcement:
    """For programs."""
    result: dict[str, Any] = {
        "url": url,
        "sdk_endpoint": f"{url}/v1/tuning",
        "needs_key": not is_open,
        "model": asdict(model),
    }
    return Announcement(result=json.dumps(result))


def base_url(host: str, port: int) -> str:
    """The address to use from this machine; a wildcard is reached through the loopback."""
    name = _WILDCARDS.get(host) or (f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def ready_line(url: str, model: ModelInfo) -> str:
    """Such as `moontune ready: http://127.0.0.1:8000 · model tiny (...) · SDK endpoint http://...`."""
    size = _count(model.num_parameters)
    facts = f"{model.family}, {size} parameters, {model.device} {model.dtype}"
    return f"{PREFIX}{url} · model {model.name} ({facts}) · SDK endpoint {url}/v1/tuning"


def key_state(config: ServerConfig, *, is_open: bool) -> str:
    """Who may call, in a sentence; a key is never shown."""
    if not is_open:
        own = "the one in MOONTUNE_API_KEY, or " if config.api_key is not None else ""
        return f"Callers need an API key: {own}one of `moontune keys list`."
    if not config.is_exposed:
        return "No API key is needed; only this machine can call."
    if config.is_loopback:
        return (
            "No API key is needed: EVERYBODY who reaches MOONTUNE_PUBLIC_URL can call"
            " (MOONTUNE_ALLOW_OPEN)."
        )
    return (
        "No API key is needed: EVERYBODY who reaches this address can call (MOONTUNE_ALLOW_OPEN)."
    )


def snippet(url: str, *, is_open: bool) -> tuple[str, ...]:
    """Six lines of Python that train a step and ask what came of it; they run as pasted."""
    key = '"none"' if is_open else '__import__("os").environ["MOONTUNE_API_KEY"]'
    return (
        "import moondream as md",
        f'ft = md.ft({key}, name="first-steps", rank=8, endpoint="{url}/v1/tuning")',
        'request = {"skill": "query", "question": "Who are you?"}',
        'group = {"mode": "sft", "request": request, "target": {"answer": "A moon."}}',
        'print([ft.train_step([group], lr=1e-3)["step"] for _ in range(4)])',
        'print("saved:", ft.model(ft.save_checkpoint()["checkpoint"]["step"]))',
    )


def read_url(line: str) -> str | None:
    """The URL of a ready line, None for any other line."""
    return line.removeprefix(PREFIX).split()[0] if line.startswith(PREFIX) else None


def _count(number: int) -> str:
    """2600000 -> `2.6M`."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)
