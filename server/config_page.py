"""docs/configuration.md, written from the configuration class by `make docs`."""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo

from server.config import ENV_PREFIX, ServerConfig
from server.domain.train_options import OptionsBody

_HEAD = """\
# Configuration

Every option is an environment variable; those of the first table are also options of `moontune
serve`, and the command line wins.
Lists are written with commas. An unknown name under `MOONTUNE_` stops the start with a suggestion.
This page is written by `make docs` from `server/config.py`.
"""

_ON_THE_COMMAND_LINE = ("model", "data_dir", "host", "port", "device", "dtype", "seed")


def page() -> str:
    """The page as it should stand in docs/configuration.md."""
    fields = ServerConfig.model_fields
    first = [(name, fields[name]) for name in _ON_THE_COMMAND_LINE]
    others = [(name, field) for name, field in fields.items() if name not in _ON_THE_COMMAND_LINE]
    return "\n".join(
        (_HEAD, "## Common", "", *_table(first), "", "## All others", "", *_table(others), "")
    )


def _table(fields: list[tuple[str, FieldInfo]]) -> list[str]:
    rows = [
        f"| `{ENV_PREFIX}{name.upper()}` | {_default(field)} | {field.description} |"
        for name, field in fields
    ]
    return ["| Variable | Default | Meaning |", "|---|---|---|", *rows]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value in ((), OptionsBody()):
        return "none"
    if isinstance(value, tuple):
        value = ",".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(page())
