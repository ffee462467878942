"""Do the oracle's tests notice a fault? Puts one at a time into trainer/model and runs them.

`make mutate` prints the first case that fails for each fault, and fails if one survives. It works
in a copy of the tree as it stands in a temporary folder (colleagues may be editing the files), and
restores each file there before the next fault. Not collected by pytest; about ten seconds a fault.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("trainer", "contract", "tests", "pyproject.toml")
ORACLE_TESTS = "tests/reference/model/test_model_oracle.py"


class Mutation:
    """A fault: in `file`, the first text of every pair (it occurs exactly once) is the second."""

    def __init__(self, name: str, file: str, *edits: str) -> None:
        self.name, self.file = name, file
        self.edits = list(zip(edits[::2], edits[1::2], strict=True))


# name, file in trainer/model, then pairs of what stands there and what shall stand there instead
# fmt: off
MUTATIONS = tuple(Mutation(name, file, *edits) for name, file, *edits in (
    ("tau: erf GELU for tanh", "attention.py",
     "functional.gelu(qkv_BTC, approximate=self.gelu)", "functional.gelu(qkv_BTC)"),
    ("tau: no position term", "attention.py",
     "alpha * log_position_BT[..., None]", "0 * log_position_BT[..., None]"),
    ("tau: ln(pos + 2)", "attention.py",
     "positions_BT.to(log_dtype) + 1)", "positions_BT.to(log_dtype) + 2)"),
    ("tau: not on v", "attention.py",
     "v_BTHd = v_BTHd * tau_v_BTH[..., None]", "pass"),
    ("rope: keys not turned", "attention.py",
     "rotate(k_BTHd, placement.cos, placement.sin)", "k_BTHd"),
    ("rope: interleaved pairs", "rope.py",
     "x_BTHd[..., :pairs].to", "x_BTHd[..., : 2 * pairs : 2].to",
     "x_BTHd[..., pairs : 2 * pairs].to", "x_BTHd[..., 1 : 2 * pairs : 2].to"),
    ("rope: exponent over the head width", "rope.py",
     "dtype=dtype) / rotated_dim", "dtype=dtype) / (2 * rotated_dim)"),
    ("prefix mask: causal", "text.py",
     "may_see | (inside[None, :] & inside[:, None])", "may_see"),
    ("block: MLP behind attention, not beside it", "text.py",
     "normed_BTD = self.ln(x_BTD)\n        attended_BTD = self.attn(\n            normed_BTD,",
     "attended_BTD = self.attn(\n            self.ln(x_BTD),",
     "router_logits_BTE = None\n", "normed_BTD = self.ln(x_BTD + attended_BTD)\n"
     "        router_logits_BTE = None\n"),
    ("heads: post_ln before the region heads", "text.py",
     "return hidden_BTD\n", "return self.post_ln(hidden_BTD)\n",
     "normed = self.post_ln(hidden)", "normed = hidden"),
    ("experts: gate without plus one", "moe.py",
     "* (gate + 1)", "* gate"),
    ("experts: rows of h and g swapped", "moe.py",
     "value, gate = hidden.chunk", "gate, value = hidden.chunk"),
    ("experts: tanh GELU for erf", "moe.py",
     "functional.gelu(value)", 'functional.gelu(value, approximate="tanh")'),
    ("experts: softmax before top-k", "moe.py",
     "torch.softmax(top_NK, dim=-1, dtype=at_least_float32).to(x_ND.dtype)",
     "logits_BTE.softmax(-1).reshape(-1, self.num_experts).gather(1, expert_NK)"),
    ("adapter: no down factors in experts", "moe.py",
     "y_SD += _low_rank(activated, adapter.down_a, adapter.down_b, adapter.rows, slots)", "pass"),
    ("adapter: no down factors in dense layers", "mlp.py",
     "out = low_rank(activated, adapter.down_a, adapter.down_b, adapter.rows, onto=out)", "pass"),
    ("dense MLP: erf GELU for tanh", "mlp.py",
     "functional.gelu(inner, approximate=self.gelu)", "functional.gelu(inner)"),
    ("region: layer norm skipped", "region.py",
     "hidden if self.ln is None else self.ln(hidden)", "hidden"),
    ("region: sine before cosine", "region.py",
     "[angle.cos(), angle.sin()]", "[angle.sin(), angle.cos()]"),
    ("bins: coordinates over 1024", "bins.py",
     "bin_index / divisor", "bin_index / (divisor + 1)"),
    ("bins: sizes over 1024", "bins.py",
     "10 * bin_index / LAST_BIN", "10 * bin_index / 1024"),
    ("vision: margins smaller by one patch", "vision.py",
     "else side - margin)", "else side - margin + 1)"),
    ("vision: tiles column by column", "vision.py",
     "tiles = tiles_NPW.view(rows, cols, side, side, -1)",
     "tiles = tiles_NPW.view(cols, rows, side, side, -1).transpose(0, 1)"),
    ("vision: patches by row, column, channel", "vision.py",
     "x.permute(0, 1, 3, 5, 2, 4)", "x.permute(0, 1, 3, 2, 4, 5)"),
    ("crops: bicubic", "crops.py",
     "image.height), Image.Resampling.LANCZOS", "image.height), Image.Resampling.BICUBIC"),
    ("crops: rows for columns", "crops.py",
     "return max(1, rows), max(1, cols)", "return max(1, cols), max(1, rows)"),
))
# fmt: on


def main() -> int:
    """Run all faults; 1 if one survives."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in COPIED:
            if (ROOT / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / part, copy / part, ignore=ignored)
            else:
                shutil.copy(ROOT / part, copy / part)
        where = run(copy, "-c", "import trainer; print(trainer.__file__)").stdout
        assert where.startswith(name), f"the tests would read {where.strip()}, not the copy"
        if failed := first_failure(copy):
            sys.exit(f"without any fault {failed} fails")
        survived = 0
        width = max(len(each.name) for each in MUTATIONS)
        for each in MUTATIONS:
            failed = apply(each, copy)
            survived += failed is None
            tell(f"{each.name:{width}}  {each.file:12}  {failed or 'SURVIVED'}")
    tell(f"{len(MUTATIONS)} faults, {survived} survived")
    return int(survived > 0)


def apply(mutation: Mutation, copy: Path) -> str | None:
    """The first case that fails under a fault, None if all pass; the file is as before."""
    path = copy / "trainer" / "model" / mutation.file
    original = path.read_text()
    try:
        changed = original
        for before, after in mutation.edits:
            if (count := changed.count(before)) != 1:
                sys.exit(f"{mutation.file} holds {count} times what {mutation.name!r} replaces")
            changed = changed.replace(before, after)
        path.write_text(changed)
        return first_failure(copy)
    finally:
        path.write_text(original)


def first_failure(copy: Path) -> str | None:
    done = run(copy, "-m", "pytest", ORACLE_TESTS, "-x", "-q", "-p", "no:cacheprovider")
    if done.returncode == 0:
        return None
    failed = re.search(r"^FAILED \S+?::(\S+) - assert", done.stdout, re.MULTILINE | re.IGNORECASE)
    if failed is None:  # the fault crashes, so no number was compared
        sys.exit(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return failed[1]


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "400"}
    return subprocess.run(
        [sys.executable, "-B", *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
