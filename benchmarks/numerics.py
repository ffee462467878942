"""What bfloat16 changes, on the oracle's cases: hidden states, logits, routes and greedy answers.

    python -m benchmarks.numerics [--device cuda] [--out benchmarks/results/numerics-cpu.json]

Everything is compared with the float32 numbers of an independent implementation. A route flips
where the K experts of a token are others than in float32; its margin is the gap, in float32,
between the K-th and the next router logit, so that near-ties can be told from faults.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from trainer.adapters.lora import Adapter
from trainer.loading import LoadedModel, load
from trainer.model.crops import make_crops
from trainer.model.text import prefix_mask

ORACLE = Path(__file__).parents[1] / "tests" / "reference" / "oracle"
FAMILIES = ("moondream3", "moondream2")
NEAR_TIE = 0.05
"""A router margin below this is called a near-tie; bfloat16 keeps 8 bits of numbers near 1 to 4."""


@dataclass(frozen=True)
class Outcome:
    """What a model computes for one case, float32 on the CPU.

    Attributes:
        first_hidden: [D] at the end of the prompt.
        first_logits: [V].
        routers_LTE: Router logits of the prompt, None without experts.
    """

    first_hidden: Tensor
    first_logits: Tensor
    routers_LTE: Tensor | None


class Family:
    """The oracle's model of a family in one dtype."""

    def __init__(self, name: str, dtype: str, device: str):
        self.directory = ORACLE / name
        self.loaded: LoadedModel = load(self.directory, name=name, device=device, dtype=dtype)
        self.model = self.loaded.model
        self.device = self.model.text.wte.device
        adapter = load_file(self.directory / "adapter.safetensors")
        self.adapter = Adapter(self.model.config.text, 8, adapter).to(self.device)
        self._features: dict[str, Tensor] = {}

    @torch.no_grad()
    def features(self, image: str) -> Tensor:
        """[P, D] image tokens."""
        if image not in self._features:
            pixels = np.asarray(Image.open(self.directory / image).convert("RGB"))
            crops = make_crops(pixels, self.model.config.vision)
            self._features[image] = self.model.vision.encode_images([crops])[0]
        return self._features[image]

    @torch.no_grad()
    def outcome(self, case: dict[str, Any]) -> Outcome:
        """Run the prompt of a case."""
        rows, prefix_len = [], 0
        for entry in case["prompt"]:
            if entry == "<image>":
                rows.append(self.features(case["image"]))
                prefix_len = 1 + len(rows[-1])
            else:
                rows.append(self._embedded(entry))
        embeds_BTD = torch.cat(rows)[None]
        length = embeds_BTD.shape[1]
        routers: list[Tensor] = []
        hidden_D = self.model.text(
            embeds_BTD,
            positions_BT=torch.arange(length, device=self.device)[None],
            attention_mask_BTS=prefix_mask(length, prefix_len, device=self.device),
            adapter=self.adapter if "adapter" in case else None,
            router_logits=routers,
        )[0, -1]
        return Outcome(
            first_hidden=hidden_D.float().cpu(),
            first_logits=self.model.text.logits(hidden_D).float().cpu(),
            routers_LTE=torch.stack(routers)[:, 0].float().cpu() if routers else None,
        )

    def _embedded(self, entry: int | str) -> Tensor:
        if isinstance(entry, int):
            return self.model.embed_tokens(torch.tensor([entry], device=self.device))
        kind, _, numbers = entry.partition(":")
        values = torch.tensor([float(n) for n in numbers.split(",")], device=self.device)
        if kind == "coord":
            return self.model.region.encode_coord(values.double())
        return self.model.region.encode_size(values.double()[None])


def relative_l2(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "worst": max(values)}


def routes(exact_LTE: Tensor, other_LTE: Tensor, num_active: int) -> Iterator[tuple[float, bool]]:
    """The margin of every route, and whether it flipped."""
    top = exact_LTE.topk(num_active + 1, dim=-1)
    margin_LT = top.values[..., -2] - top.values[..., -1]
    chosen_LTK = top.indices[..., :-1].sort(-1).values
    other_LTK = other_LTE.topk(num_active, dim=-1).indices.sort(-1).values
    flipped_LT = (chosen_LTK != other_LTK).any(-1)
    yield from zip(margin_LT.flatten().tolist(), flipped_LT.flatten().tolist(), strict=True)


def measure(name: str, device: str) -> dict[str, Any]:
    """Both dtypes of one family."""
    cases = json.loads((ORACLE / name / "cases.json").read_text())["cases"]
    expected = load_file(ORACLE / name / "expected.safetensors")
    exact, rounded = Family(name, "float32", device), Family(name, "bfloat16", device)
    found: dict[str, Any] = {"cases": len(cases)}
    seen: list[tuple[float, bool]] = []
    for label, family in (("float32", exact), ("bfloat16", rounded)):
        hidden, logits, agree = [], [], 0
        for case in cases:
            outcome = family.outcome(case)
            wanted = expected[f"{case['id']}.first_logits"]
            hidden.append(relative_l2(outcome.first_hidden, expected[f"{case['id']}.first_hidden"]))
            logits.append(relative_l2(outcome.first_logits, wanted))
            agree += int(outcome.first_logits.argmax() == wanted.argmax())
            if label == "bfloat16" and outcome.routers_LTE is not None:
                exact_LTE = exact.outcome(case).routers_LTE
                assert exact_LTE is not None
                num_active = family.model.config.text.moe.experts_per_token
                seen += routes(exact_LTE, outcome.routers_LTE, num_active)
        images = sorted({case["image"] for case in cases if case["image"]})
        features = [
            relative_l2(family.features(i).float().cpu(), expected[f"image.{n}.features"])
            for n, i in enumerate(images)
        ]
        found[label] = {
            "image_features": summary(features),
            "first_hidden": summary(hidden),
            "first_logits": summary(logits),
            "same_first_token": agree,
        }
    if seen:
        flips = [margin for margin, flipped in seen if flipped]
        near = [flipped for margin, flipped in seen if margin < NEAR_TIE]
        found["routes"] = {
            "num": len(seen),
            "flipped": len(flips),
            "flipped_share": len(flips) / len(seen),
            "near_ties": len(near),
            "near_ties_flipped_share": sum(near) / max(1, len(near)),
            "flipped_beyond_near_ties": sum(margin >= NEAR_TIE for margin in flips),
            "largest_margin_flipped": max(flips, default=0.0),
        }
    return found


def show(name: str, found: dict[str, Any]) -> None:
    print(f"{name}, {found['cases']} cases; relative L2 to float32 (median, worst)")
    for label in ("float32", "bfloat16"):
        part = found[label]
        columns = "  ".join(
            f"{key} {part[key]['median']:.1e} {part[key]['worst']:.1e}"
            for key in ("image_features", "first_hidden", "first_logits")
        )
        print(f"  {label:9s} {columns}  same first token {part['same_first_token']}")
    if "routes" in found:
        r = found["routes"]
        print(
            f"  routes    {r['flipped']} of {r['num']} flipped ({100 * r['flipped_share']:.2f} %);"
            f" near-ties (< {NEAR_TIE}) {r['near_ties']}, of which"
            f" {100 * r['near_ties_flipped_share']:.1f} % flipped; beyond them"
            f" {r['flipped_beyond_near_ties']}, largest margin {r['largest_margin_flipped']:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for name in FAMILIES:
        found[name] = measure(name, arguments.device)
        show(name, found[name])
    if arguments.out is not None:
        is_gpu = arguments.device.startswith("cuda")
        facts = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "device": torch.cuda.get_device_name() if is_gpu else platform.machine() + " cpu",
            "torch": torch.__version__,
            "near_tie": NEAR_TIE,
        }
        arguments.out.write_text(json.dumps({**facts, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
