"""One module creates, renames and removes state files; every other place that could is named."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

EXCEPTIONS = {
    "contract/durable.py": "the one writer",
    "server/bodies/store.py": "files without names for bodies, which no row knows",
    "server/data_lock.py": "the lock of the data directory, which holds no state",
    "server/db/migrate.py": "the folder of SQLite, which writes its files by itself",
    "server/sweep_lease.py": "a lock, which holds no state",
    "server/worker_process.py": "the worker's log",
    "trainer/catalog/hub.py": "pulled models: another folder, and fetched again",
    "trainer/catalog/pull.py": "the same",
    "trainer/catalog/store.py": "the same",
    "trainer/exchange/manifest.py": "an export, where the operator said, made aside",
    "trainer/exchange/merged.py": "the same",
    "trainer/exchange/outgoing.py": "the same",
    "trainer/exchange/peft_directory.py": "the same",
    "trainer/exchange/exchange_file.py": "torch.save into memory, which the writer gets",
    "trainer/model/checkpoint.py": "a base model, where its maker said",
}
"""Who touches files, and why it is no state of a finetune."""

METHODS = {
    "unlink", "rename", "rmdir", "mkdir", "touch", "write_bytes", "write_text", "symlink_to",
    "hardlink_to", "link_to", "chmod", "truncate",
}  # fmt: skip
FUNCTIONS = {
    "os": {
        "open", "remove", "unlink", "rename", "renames", "replace", "rmdir", "removedirs", "mkdir",
        "makedirs", "link", "symlink", "truncate", "ftruncate", "fsync", "fdatasync", "mkfifo",
    },
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "rmtree", "make_archive"},
    "tempfile": {"mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile"},
    "torch": {"save"},
}  # fmt: skip
NAMES = {"save_file"}


def touches(source: str) -> list[int]:
    """The lines of a module that may create, rename or remove a file."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _touches(node)
    ]


def _touches(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in NAMES or (function.id == "open" and _writes(call, position=1))
    if not isinstance(function, ast.Attribute):
        return False
    name, owner = function.attr, function.value
    if isinstance(owner, ast.Name) and owner.id in FUNCTIONS:
        return name in FUNCTIONS[owner.id]
    if isinstance(owner, ast.Name) and owner.id == "durable":
        return False
    if name == "open":
        return _writes(call, position=0)
    if name == "replace":  # of a path: one argument; of a text: two; of a dataclass: by name
        return len(call.args) == 1 and not call.keywords
    return name in METHODS or name in NAMES


def _writes(call: ast.Call, *, position: int) -> bool:
    """Whether an `open` has a mode that writes; one that is no plain text is taken for a path."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    given += call.args[position : position + 1]
    return any(
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and len(mode.value) <= len("xb+")
        and bool(set(mode.value) & set("wax+"))
        for mode in given
    )


def _modules() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for package in ("contract", "server", "trainer")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_nobody_but_the_writer_and_those_named_touches_files():
    found = {name: touches(text) for name, text in _modules().items() if name not in EXCEPTIONS}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_exception_is_needed():
    modules = _modules()
    assert [name for name in EXCEPTIONS if not touches(modules[name])] == []


@pytest.mark.parametrize(
    "line",
    [
        "path.unlink(missing_ok=True)",
        "a.rename(b)",
        "a.replace(b)",
        "os.replace(a, b)",
        "os.open(path, flags)",
        "path.open('wb')",
        "path.open(mode='a')",
        "open(path, 'x')",
        "shutil.rmtree(path)",
        "safetensors.torch.save_file(tensors, path)",
        "torch.save(content, path)",
        "path.write_bytes(data)",
    ],
)
def test_it_sees(line):
    assert touches(line) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')",
        "dataclasses.replace(ref, path=path)",
        "path.open('rb')",
        "path.open()",
        "open(path)",
        "image.open(file)",
        "durable.remove(path)",
        "Image.open(stream, formats=FORMATS)",
    ],
)
def test_it_lets_pass(line):
    assert touches(line) == []
