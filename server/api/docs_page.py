"""The OpenAPI document as one page of HTML: no script, nothing from elsewhere, nothing to load.

So it works without the internet, and its policy can forbid everything but its own style.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")
_LIMITS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
h3 { margin-top: 2rem; font-family: ui-monospace, monospace; font-size: 1rem;
  overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #e4e4e4; }
.method { display: inline-block; min-width: 4.5rem; color: #0b57b8; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #161616; }
  a, .method { color: #8ab8ff; }
  h2, th, td { border-color: #444; }
}
"""

STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_DIGEST}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: its own style and nothing else."""


def docs_page(document: Mapping[str, Any]) -> str:
    """Render a whole OpenAPI document."""
    title = escape(document["info"]["title"])
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title} API</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{title} API</h1><p>{escape(document['info'].get('description', ''))}"
            ' The same for programs: <a href="/openapi.json">openapi.json</a>.</p>',
            *_operations(document["paths"]),
            "<h2>Schemas</h2>",
            *_schemas(document.get("components", {}).get("schemas", {})),
            "</body></html>",
        ]
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    """All operations, under the first tag of each, in the order of the document."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in paths.items():
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                tag = next(iter(operation.get("tags", ())), "other")
                by_tag.setdefault(tag, []).extend(_operation(method, path, operation))
    for tag, lines in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>"
        yield from lines


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h3><span class="method">{method.upper()}</span> {escape(path)}</h3>'
    text = operation.get("description") or operation.get("summary", "")
    yield from (f"<p>{escape(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph)
    parameters = operation.get("parameters", ())
    if parameters:
        yield "<table><tr><th>Parameter</th><th>In</th><th>Type</th><th></th></tr>"
        for parameter in parameters:
            yield _row(
                f"<code>{escape(parameter['name'])}</code>",
                escape(parameter["in"]),
                _type(parameter.get("schema", {})),
                _told(parameter, is_required=parameter.get("required", False)),
            )
        yield "</table>"
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body, {escape(media_type)}: {_type(content.get('schema', {}))}</p>"


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3>'
        if "description" in schema:
            yield f"<p>{escape(schema['description'])}</p>"
        properties = schema.get("properties", {})
        if not properties:
            yield f"<p>{_type(schema)}</p>"
            continue
        required = schema.get("required", ())
        yield "<table><tr><th>Field</th><th>Type</th><th></th></tr>"
        for field, inner in properties.items():
            yield _row(
                f"<code>{escape(field)}</code>",
                _type(inner),
                _told(inner, is_required=field in required),
            )
        yield "</table>"


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _told(thing: Mapping[str, Any], *, is_required: bool) -> str:
    """What else is said of a field or parameter."""
    words = ["required"] if is_required else []
    default = thing.get("default")
    words += [] if default is None else [f"default <code>{escape(str(default))}</code>"]
    words += [f"{name} {escape(str(thing[name]))}" for name in _LIMITS if name in thing]
    words += [escape(thing["description"])] if "description" in thing else []
    return ", ".join(words)


def _type(schema: Mapping[str, Any]) -> str:
    """A type in words, with links to the schemas that it names."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            joint = " and " if key == "allOf" else " or "
            return joint.join(dict.fromkeys(map(_type, schema[key])))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(kind if isinstance(kind, str) else " or ".join(kind))
