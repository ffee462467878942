"""Our model against the numbers of an independent implementation, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from trainer.model import bins
from trainer.model.text import prefix_mask

# Relative L2. The two GELU forms of tau differ by 1.3e-4 here, so a looser bound proves nothing.
FLOAT32_RELATIVE = 1e-5
DECODED_ABSOLUTE = 1e-6
LEAST_MARGIN = 0.01  # below it the best two logits are too close to call


@pytest.fixture(autouse=True)
def on_its_device(oracle: Any) -> Iterator[None]:
    """Tensors that a test makes lie where the model lies."""
    with oracle.model.text.wte.device:
        yield


def relative_l2(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


def prompt_embeddings(oracle: Any, case: dict) -> tuple[torch.Tensor, int]:
    """[1, T, D] embeddings of a case's prompt, and the length of its bidirectional prefix."""
    model, rows, prefix_len = oracle.model, [], 0
    for entry in case["prompt"]:
        if entry == "<image>":
            rows.append(oracle.features(case["image"]))
            prefix_len = 1 + len(rows[-1])
        elif isinstance(entry, int):
            rows.append(model.embed_tokens(torch.tensor([entry])))
        elif entry.startswith("coord:"):
            rows.append(
                model.region.encode_coord(torch.tensor([float(entry[6:])], dtype=torch.float64))
            )
        else:
            size = [float(side) for side in entry.removeprefix("size:").split(",")]
            rows.append(model.region.encode_size(torch.tensor([size], dtype=torch.float64)))
    return torch.cat(rows)[None], prefix_len


class Greedy:
    """A case under greedy decoding: the last hidden state, and what is fed next."""

    def __init__(self, oracle: Any, case: dict) -> None:
        self.model, self.case = oracle.model, case
        self.adapter = oracle.adapter if "adapter" in case else None
        embeds, prefix_len = prompt_embeddings(oracle, case)
        length = embeds.shape[1]
        self.embeds = [embeds[0]]
        self.prefix_len = prefix_len
        self.cache = self.model.text.new_cache(1, length + 40)
        self.hidden = self._run(embeds, prefix_mask(length, prefix_len))
        self.hiddens = [self.hidden]
        self.margin = float("inf")

    def _run(self, embeds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        start = self.cache.length
        positions = torch.arange(start, start + embeds.shape[1])[None]
        return self.model.text(
            embeds,
            positions_BT=positions,
            attention_mask_BTS=mask,
            cache=self.cache,
            adapter=self.adapter,
        )[0, -1]

    def feed(self, embed_D: torch.Tensor) -> None:
        self.embeds.append(embed_D[None])
        self.hidden = self._run(embed_D[None, None], None)
        self.hiddens.append(self.hidden)

    def pick(self, logits: torch.Tensor) -> int:
        best = logits.topk(2)
        self.margin = min(self.margin, (best.values[0] - best.values[1]).item())
        return int(best.indices[0])

    def coord(self) -> int:
        """Read a coordinate bin from the hidden state that emitted it, and feed its value back."""
        bin_index = self.pick(self.model.region.coord_logits(self.hidden))
        value = torch.tensor(bins.coord_value(bin_index), dtype=torch.float64)
        self.feed(self.model.region.encode_coord(value))
        return bin_index

    def size(self) -> list[int]:
        sides = [self.pick(logits) for logits in self.model.region.size_logits(self.hidden)]
        values = torch.tensor([bins.size_value(side) for side in sides], dtype=torch.float64)
        self.feed(self.model.region.encode_size(values))
        return sides

    def objects(self) -> tuple[list[list[int]], str]:
        ids = self.model.config.tokenizer
        allowed = torch.tensor([ids.coord_id, ids.eos_id])
        found: list[list[int]] = []
        while len(found) < self.case["settings"]["max_objects"]:
            if self.pick(self.model.text.logits(self.hidden, allowed)) == 1:
                return found, "stop"
            x, y = self.coord(), self.coord()
            found.append([x, y, *(self.size() if self.case["skill"] == "detect" else [])])
        return found, "length"

    def text(self) -> tuple[list[int], str]:
        ids = self.model.config.tokenizer
        suppressed = list(ids.templates.query.answer_suppressed_token_ids)
        drawn: list[int] = []
        while len(drawn) < self.case["settings"]["max_tokens"]:
            logits = self.model.text.logits(self.hidden).clone()
            logits[suppressed] = -torch.inf
            token = self.pick(logits)
            if token == ids.eos_id:
                return drawn, "stop"
            drawn.append(token)
            if token == ids.coord_id:
                self.coord()
            elif token == ids.size_id:
                self.size()
            else:
                self.feed(self.model.embed_tokens(torch.tensor(token)))
        return drawn, "length"


def decoded_object(found: list[int]) -> dict[str, float]:
    x, y = bins.coord_value(found[0]), bins.coord_value(found[1])
    if len(found) == 2:
        return {"x": x, "y": y}
    half_w, half_h = bins.size_value(found[2]) / 2, bins.size_value(found[3]) / 2
    corners = {"x_min": x - half_w, "y_min": y - half_h, "x_max": x + half_w, "y_max": y + half_h}
    return {name: min(max(value, 0), 1) for name, value in corners.items()}


@pytest.mark.parametrize("image", range(4))
def test_crops_and_image_features_agree(oracle, image):
    crops_NHWC, tiling = oracle.crops(image)
    tilings = {
        tuple(case["tiling"])
        for case in oracle.cases.values()
        if case["id"].startswith(f"{image}.") and "tiling" in case
    }
    assert {tiling} == tilings
    means = oracle.model.vision.normalise(crops_NHWC).mean(dim=(1, 2, 3))
    assert torch.allclose(means, oracle.expected[f"image.{image}.crops_mean"], atol=1e-5)
    features = oracle.features(oracle.image_names[image])
    assert relative_l2(features, oracle.expected[f"image.{image}.features"]) < FLOAT32_RELATIVE


@torch.no_grad()
def test_greedy_case_agrees(oracle, case_id):
    case = oracle.cases[case_id]
    greedy = Greedy(oracle, case)
    logits = oracle.model.text.logits(greedy.hidden)
    assert relative_l2(greedy.hidden, oracle.expected[f"{case_id}.first_hidden"]) < FLOAT32_RELATIVE
    assert relative_l2(logits, oracle.expected[f"{case_id}.first_logits"]) < FLOAT32_RELATIVE

    assert case["min_margin"] > LEAST_MARGIN, "this case decides nothing"
    if case["skill"] in ("detect", "point"):
        found, finish_reason = greedy.objects()
        assert found == case["bins"]
        (wanted,) = case["output"].values()
        assert len(found) == len(wanted)
        for got, want in zip(map(decoded_object, found), wanted, strict=True):
            assert got == pytest.approx(want, abs=DECODED_ABSOLUTE)
    else:
        token_ids, finish_reason = greedy.text()
        assert token_ids == case["token_ids"]
        assert list(case["output"].values()) == [oracle.tokenizer.decode(token_ids)]
    assert finish_reason == case["finish_reason"]
    assert greedy.margin == pytest.approx(case["min_margin"], abs=1e-3)


@pytest.mark.parametrize(
    "case_id_plain", ["1.query.9", "0.detect.0", "text.query", "adapter.detect"]
)
@torch.no_grad()
def test_cached_decoding_equals_one_pass_over_the_whole_sequence(oracle, case_id_plain):
    case = oracle.cases[case_id_plain]
    greedy = Greedy(oracle, case)
    _ = greedy.objects() if case["skill"] == "detect" else greedy.text()
    embeds = torch.cat(greedy.embeds)[None]
    length = embeds.shape[1]
    hidden = oracle.model.text(
        embeds,
        positions_BT=torch.arange(length)[None],
        attention_mask_BTS=prefix_mask(length, greedy.prefix_len),
        adapter=greedy.adapter,
    )[0]
    steps = len(greedy.hiddens)
    assert relative_l2(torch.stack(greedy.hiddens), hidden[length - steps :]) < FLOAT32_RELATIVE


def test_prompts_encode_as_in_the_oracle(oracle):
    for case in oracle.cases.values():
        template = getattr(oracle.model.config.tokenizer.templates, case["skill"])
        if case["skill"] == "caption":
            wanted = list(getattr(template, case["argument"]))
        else:
            refs = [entry for entry in case["prompt"] if isinstance(entry, str) and ":" in entry]
            is_query = case["skill"] == "query"
            text = case["argument"] if is_query else " " + case["argument"]
            suffix = template.answer_prefix if is_query else template.suffix
            wanted = [*template.prefix, *refs, *oracle.tokenizer.encode(text), *suffix]
        start = 2 if "<image>" in case["prompt"] else 1
        assert case["prompt"][start:] == wanted
