"""Nothing that comes from outside is unpickled or run; bar S5."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import unpickling

ROOT = Path(__file__).parents[2]
MAY_LOAD = "trainer/model/torch_files.py"
MAY_SAVE = "trainer/exchange/exchange_file.py"
FORBIDDEN_WORDS = ("allow_pickle", "trust_remote_code")


def product_trees() -> dict[str, ast.AST]:
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for package in ("contract", "server", "trainer", "migrations", "examples")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def calls(tree: ast.AST, function: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function
    ]


def test_one_file_loads_what_torch_saved_and_takes_nothing_but_tensors() -> None:
    found = {name: calls(tree, "torch.load") for name, tree in product_trees().items()}
    assert [name for name, loads in found.items() if loads] == [MAY_LOAD]
    for load in found[MAY_LOAD]:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in load.keywords}
        assert given["weights_only"] == "True"


def test_one_file_saves_as_torch_does() -> None:
    found = {name: calls(tree, "torch.save") for name, tree in product_trees().items()}
    assert [name for name, saves in found.items() if saves] == [MAY_SAVE]


def test_nobody_asks_for_objects_or_for_the_code_of_a_repository() -> None:
    for name, tree in product_trees().items():
        words = [node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)]
        words += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not set(words) & set(FORBIDDEN_WORDS), name


@pytest.mark.parametrize("name", ["server/x.py", "trainer/x.py", "contract/x.py"])
def test_the_linter_sees_every_way(name: str) -> None:
    lines = [
        "import cloudpickle",
        "import dill",
        "import joblib",
        "import marshal",
        "import multiprocessing.connection",
        "from multiprocessing.connection import Listener",
        "from multiprocessing import connection",
        "import pickle",
        "from pickle import loads",
        "import shelve",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "from numpy import load",
        "import torch; torch.load('x', weights_only=True)",
        "import torch as t; t.save({}, 'x')",
        "from torch import load as read",
        "import yaml; yaml.load('x', Loader=yaml.Loader)",
        "exec('x')",
        "eval('x')",
        "import os; os.system('x')",
    ]
    found = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--select", "TID251,S", "--no-cache"),
            *("--output-format", "json", "--stdin-filename", name, "-"),
        ],
        input="\n".join(lines),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seen = {fault["location"]["row"] for fault in json.loads(found.stdout)}
    assert [line for row, line in enumerate(lines, 1) if row not in seen] == []


class Trap:
    """An object whose pickle would call something."""

    def __reduce__(self) -> Any:
        return print, ("this was run",)


def run_as(filename: Path, data: bytes) -> None:
    code = "import pickle\ntry:\n    pickle.loads(data)\nexcept Exception:\n    pass\n"
    exec(compile(code, str(filename), "exec"), {"data": data})


def test_the_watch_sees_product_code_that_unpickles_and_swallows_the_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_as(ROOT / "server" / "x.py", pickle.dumps(Trap()))
    (told,) = unpickling.found
    unpickling.found.clear()  # or this test would fail, as any other would
    assert "print was looked up from" in told
    assert told.endswith("server/x.py:3")
    assert capsys.readouterr().out == ""


def test_the_watch_lets_tests_unpickle(capsys: pytest.CaptureFixture[str]) -> None:
    run_as(ROOT / "tests" / "x.py", pickle.dumps(Trap()))
    assert unpickling.found == []
    assert capsys.readouterr().out == "this was run\n"
