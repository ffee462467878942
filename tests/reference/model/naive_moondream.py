"""Moondream by its written rules alone (model-facts.md 2 to 6): text model, region, greedy answers.

Nothing of `trainer` is imported or was copied: the weights come straight from the file, in float64.
Every draw runs the whole sequence anew, one head and one expert at a time, without a cache; but who
has a guess of the sequence may `foresee` it: draws that it is right about are made in one run.
Image tokens are given, the vision tower is not here; neither are adapters.

D width, T positions, P image tokens, V vocabulary.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

END, ANSWER, THINKING, COORD, SIZE, GROUND_START, GROUND_END = 0, 3, 4, 5, 6, 7, 9
LAST_RESERVED = 20
HEAD_WIDTH, ROTATED = 64, 32

Item = int | tuple[float] | tuple[float, float] | Tensor
"""One input: a token, a coordinate (v,), a size (width, height), or [P, D] image tokens."""


@dataclass(frozen=True)
class NaiveDraw:
    """A token, its bins, and the log-probability of each at temperature 1 under the mask."""

    token: int
    bins: tuple[int, ...]
    logprob: float  # 0 where the token is forced
    bin_logprobs: tuple[float, ...]

    @property
    def item(self) -> Item:
        """What is fed next."""
        if self.token == COORD:
            return (self.bins[0] / 1023,)
        if self.token == SIZE:
            width, height = (2 ** (10 * b / 1023 - 10) for b in self.bins)
            return (width, height)
        return self.token


@dataclass
class NaiveAnswer:
    """Draws in order, how they ended, and the API's output; `thinking` of them are reasoning."""

    draws: list[NaiveDraw] = field(default_factory=list)
    num_thinking: int = 0
    has_separator: bool = False
    finish_reason: str = "length"
    margin: float = math.inf  # between the best two choices, the smallest met
    num_turned: int = 0  # draws of free text whose likeliest token was forbidden
    output: dict[str, Any] = field(default_factory=dict)

    @property
    def thinking(self) -> list[NaiveDraw]:
        return self.draws[: self.num_thinking]

    @property
    def answer(self) -> list[NaiveDraw]:
        behind = self.draws[self.num_thinking + self.has_separator :]
        return behind[:-1] if self.finish_reason == "stop" else behind

    def bins(self, token: int) -> list[tuple[int, ...]]:
        return [draw.bins for draw in self.draws if draw.token == token]


def num_positions(item: Item) -> int:
    """How many positions an input takes."""
    return len(item) if isinstance(item, Tensor) else 1


class NaiveMoondream:
    """The model of one published folder (layouts 9.1 and 9.2)."""

    def __init__(self, directory: Path) -> None:
        self.config = json.loads((directory / "config.json").read_text())["config"]
        self.weights = {
            name.removeprefix("model."): tensor.double()
            for name, tensor in load_file(directory / "model.safetensors").items()
        }
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.is_third = "text.blocks.0.attn.tau.wq" in self.weights
        self.theta = 1_500_000.0 if self.is_third else 10_000.0
        self.foreseen: list[Item] = []
        self.foreseen_TD = torch.empty(0)

    # The model

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-5)

    def hidden(self, items: Sequence[Item]) -> Tensor:
        """[D] state of the last position, before the final norm."""
        if self.is_foreseen(items):
            return self.foreseen_TD[sum(map(num_positions, items)) - 1]
        return self.states(items)[-1]

    def foresee(self, items: Sequence[Item]) -> None:
        """Run a guess at once, for `hidden` of its beginnings.

        A position sees what stands before it and, in a picture, the rest of that picture; so what
        an answer goes on with changes no earlier state. A wrong guess costs time alone.
        """
        if not self.is_foreseen(items):
            self.foreseen, self.foreseen_TD = list(items), self.states(items)

    def is_foreseen(self, items: Sequence[Item]) -> bool:
        """Whether the guess begins with these: equal tokens and values, the very same pictures."""
        return len(items) <= len(self.foreseen) and all(
            known is item or (type(known) is type(item) is not Tensor and known == item)
            for known, item in zip(self.foreseen, items, strict=False)
        )

    def states(self, items: Sequence[Item]) -> Tensor:
        """[T, D] state of every position, before the final norm."""
        rows: list[Tensor] = []
        block: list[int] = []  # the image a position belongs to, -1 for none
        for index, item in enumerate(items):
            embedded_ND = self.embed(item)
            is_image = isinstance(item, Tensor)
            if is_image and index == 1:
                block[0] = index  # BOS joins the picture that follows it at once
            rows += embedded_ND
            block += [index if is_image else -1] * len(embedded_ND)
        x = torch.stack(rows)
        position = torch.arange(len(rows))
        of = torch.tensor(block)
        may_see = (position[None] <= position[:, None]) | (
            (of[None] == of[:, None]) & (of[None] >= 0)
        )
        for layer in range(self.config["text"]["n_layers"]):
            n = self.layer_norm(f"text.blocks.{layer}.ln", x)
            x = x + self.attention(layer, n, may_see) + self.ffn(layer, n)
        return x

    def embed(self, item: Item) -> Tensor:
        """[1, D], or [P, D] of a picture."""
        if isinstance(item, Tensor):
            return item.double()
        if isinstance(item, int):
            return self.weights["text.wte"][item][None]
        kind = "coord" if len(item) == 1 else "size"
        values = torch.tensor([item], dtype=torch.float32).double()  # cast to the model's dtype
        f = (2 * math.pi * values) @ self.weights[f"region.{kind}_features"]
        return self.linear(f"region.{kind}_encoder", torch.cat([f.cos(), f.sin()], dim=-1))

    def attention(self, layer: int, n: Tensor, may_see: Tensor) -> Tensor:
        name = f"text.blocks.{layer}.attn"
        width = n.shape[1]
        qkv = self.linear(f"{name}.qkv", n)
        position = torch.arange(len(n), dtype=torch.float64)
        features = F.gelu(qkv, approximate="tanh")
        outputs = []
        for head in range(width // HEAD_WIDTH):
            columns = slice(HEAD_WIDTH * head, HEAD_WIDTH * (head + 1))
            q, k, v = (part[:, columns] for part in qkv.split(width, dim=1))
            if self.is_third:
                tau = {key: self.weights[f"{name}.tau.{key}"][head] for key in ("wq", "wv")}
                alpha = self.weights[f"{name}.tau.alpha"][head]
                tp = torch.sigmoid(alpha * torch.log(position + 1)) + 0.5
                q = q * (torch.tanh(features @ tau["wq"]) + tp)[:, None]
                v = v * (torch.tanh(features @ tau["wv"]) + tp)[:, None]
            scores = self.rope(q) @ self.rope(k).T / math.sqrt(HEAD_WIDTH)
            outputs.append(scores.masked_fill(~may_see, -math.inf).softmax(dim=1) @ v)
        return self.linear(f"{name}.proj", torch.cat(outputs, dim=1))

    def rope(self, x: Tensor) -> Tensor:
        """Pairs (i, i + 16) turned by pos theta^(-2i/32); the last 32 values stay."""
        half = ROTATED // 2
        omega = self.theta ** (-2 * torch.arange(half, dtype=torch.float64) / ROTATED)
        phi = torch.arange(len(x), dtype=torch.float64)[:, None] * omega
        a, b, rest = x[:, :half], x[:, half:ROTATED], x[:, ROTATED:]
        turned = [a * phi.cos() - b * phi.sin(), a * phi.sin() + b * phi.cos()]
        return torch.cat([*turned, rest], dim=1)

    def ffn(self, layer: int, n: Tensor) -> Tensor:
        name = f"text.blocks.{layer}.mlp"
        if f"{name}.router.weight" not in self.weights:
            hidden = F.gelu(self.linear(f"{name}.fc1", n), approximate="tanh")
            return self.linear(f"{name}.fc2", hidden)
        moe = self.config["text"]["moe"]
        best = self.linear(f"{name}.router", n).topk(moe["experts_per_token"], dim=1)
        share = torch.zeros(len(n), moe["num_experts"], dtype=torch.float64)
        share.scatter_(1, best.indices, best.values.softmax(dim=1))
        result = torch.zeros_like(n)
        for expert in range(moe["num_experts"]):
            h, g = (n @ self.weights[f"{name}.fc1.weight"][expert].T).chunk(2, dim=1)
            y = (F.gelu(h) * (g + 1)) @ self.weights[f"{name}.fc2.weight"][expert].T
            result += share[:, expert, None] * y
        return result

    def token_logits(self, hidden: Tensor) -> Tensor:
        return self.linear("text.lm_head", self.layer_norm("text.post_ln", hidden))

    def bin_logits(self, hidden: Tensor, token: int) -> tuple[Tensor, ...]:
        """What the bins of a token are drawn from: none, one or two times 1024 logits."""
        if token not in (COORD, SIZE):
            return ()
        name = "region.coord_decoder" if token == COORD else "region.size_decoder"
        if self.is_third:
            logits = self.linear(name, self.layer_norm("region.ln", hidden))
        else:
            inner = F.gelu(self.linear(f"{name}.fc1", hidden), approximate="tanh")
            logits = self.linear(f"{name}.fc2", inner)
        return logits.split(1024)

    # Answers

    def prompt(
        self,
        skill: str,
        text: str,
        *,
        image_PD: Tensor | None = None,
        refs: Sequence[Sequence[float]] = (),
        reasoning: bool = False,
    ) -> list[Item]:
        """BOS, picture, and the words of the skill around references and text."""
        templates = self.config["tokenizer"]["templates"][skill]
        if skill == "caption":
            middle, before, after = [], templates[text], []
        elif skill == "query":
            middle = self.tokenizer.encode(text.strip()).ids
            before, after = templates["prefix"], self.opener(reasoning=reasoning)
        else:
            space = "" if skill == "segment" else " "
            middle = self.tokenizer.encode(space + text.strip()).ids
            before, after = templates["prefix"], [ANSWER]
        spatial: list[Item] = []
        for ref in refs:
            if len(ref) == 2:
                spatial += [(ref[0],), (ref[1],)]
            else:
                x_min, y_min, x_max, y_max = ref
                spatial += [((x_min + x_max) / 2,), ((y_min + y_max) / 2,)]
                spatial += [(x_max - x_min, y_max - y_min)]
        return [END, *([] if image_PD is None else [image_PD]), *before, *spatial, *middle, *after]

    def opener(self, *, reasoning: bool) -> list[int]:
        """What stands between a question and its answer: MD3 [3] or [4]; MD2 [3, 3] or [3, 4]."""
        last = THINKING if reasoning else ANSWER
        return [last] if self.is_third else [ANSWER, last]

    def conversation(
        self,
        turns: Sequence[tuple[str, Sequence[Tensor], str | None]],
        *,
        system: str | None = None,
        reasoning: bool = False,
    ) -> list[Item]:
        """One BOS, then a query block per (text, pictures, answer); the last answer is None."""
        prefix = self.config["tokenizer"]["templates"]["query"]["prefix"]
        items: list[Item] = [END]
        for number, (text, pictures, answer) in enumerate(turns):
            asked = f"{system}\n\n{text}" if number == 0 and system is not None else text
            items += [*pictures, *prefix, *self.tokenizer.encode(asked).ids]
            if answer is None:
                items += self.opener(reasoning=reasoning)
            else:
                items += [*self.opener(reasoning=False), *self.tokenizer.encode(answer).ids]
        return items

    def draw(
        self,
        answer: NaiveAnswer,
        items: list[Item],
        *,
        only: Sequence[int] = (),
        never: Sequence[int] = (),
    ) -> NaiveDraw:
        """The likeliest token and bins; they join the answer, and their embedding the sequence."""
        hidden = self.hidden(items)
        logits = self.token_logits(hidden)
        answer.num_turned += int(logits.argmax()) in never
        forbidden = [t for t in range(len(logits)) if (only and t not in only) or t in never]
        logits[forbidden] = -math.inf
        token, logprob = self.choose(answer, logits)
        choices = [self.choose(answer, each) for each in self.bin_logits(hidden, token)]
        draw = NaiveDraw(token, tuple(c[0] for c in choices), logprob, tuple(c[1] for c in choices))
        answer.draws.append(draw)
        items.append(draw.item)
        return draw

    @staticmethod
    def choose(answer: NaiveAnswer, logits: Tensor) -> tuple[int, float]:
        best = logits.topk(2)
        answer.margin = min(answer.margin, float(best.values[0] - best.values[1]))
        return int(best.indices[0]), float(logits.log_softmax(dim=0)[best.indices[0]])

    def query(self, prompt: list[Item], *, reasoning: bool, max_tokens: int) -> NaiveAnswer:
        """A query or caption; every draw counts towards `max_tokens`, the separator as well."""
        answer, items = NaiveAnswer(), list(prompt)
        while reasoning and not answer.has_separator and len(answer.draws) < max_tokens:
            drawn = self.draw(answer, items, never=() if self.is_third else (END, SIZE))
            if drawn.token == END:
                answer.finish_reason = "stop"
                break
            answer.has_separator = drawn.token == ANSWER
            answer.num_thinking += not answer.has_separator
        while answer.has_separator == reasoning and len(answer.draws) < max_tokens:
            drawn = self.draw(answer, items, never=() if self.is_third else (ANSWER,))
            if drawn.token == END:
                answer.finish_reason = "stop"
                break
        answer.output = {"answer": self.text(answer.answer).strip()}
        if reasoning:
            answer.output["reasoning"] = self.reasoning(answer.thinking)
        return answer

    def objects(self, prompt: list[Item], *, skill: str, max_objects: int) -> NaiveAnswer:
        """Points or boxes, until the end token is drawn or there are `max_objects`."""
        answer, items = NaiveAnswer(), list(prompt)
        found: list[dict[str, float]] = []
        while len(found) < max_objects:
            if self.draw(answer, items, only=(COORD, END)).token == END:
                answer.finish_reason = "stop"
                break
            self.draw(answer, items, only=(COORD,))
            (x,), (y,) = items[-2:]
            if skill == "point":
                found.append({"x": x, "y": y})
                continue
            self.draw(answer, items, only=(SIZE,))
            found.append(self.box(x, y, *items[-1]))
        answer.output = {"points" if skill == "point" else "objects": found}
        return answer

    def segment(self, prompt: list[Item], *, max_tokens: int) -> NaiveAnswer:
        """A box, then a path in it; nothing is forbidden, so both come wherever they are drawn."""
        answer, items = NaiveAnswer(), list(prompt)
        while len(answer.draws) < max_tokens:
            if self.draw(answer, items).token == END:
                answer.finish_reason = "stop"
                break
        coords = [draw.item for draw in answer.draws if draw.token == COORD]
        sizes = [draw.item for draw in answer.draws if draw.token == SIZE]
        answer.output = {"path": "", "bbox": None}
        if len(coords) > 1 and sizes:
            ((x,), (y,)), (width, height) = coords[:2], sizes[0]
            tokens = [draw.token for draw in answer.draws]
            answer.output = {"path": self.path(tokens), "bbox": self.box(x, y, width, height)}
        return answer

    @staticmethod
    def box(x: float, y: float, width: float, height: float) -> dict[str, float]:
        """Sides around a centre, clamped to the picture."""
        sides = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        names = ("x_min", "y_min", "x_max", "y_max")
        return {n: min(max(v, 0.0), 1.0) for n, v in zip(names, sides, strict=True)}

    def path(self, tokens: Sequence[int]) -> str:
        """Words of an SVG path: numbers are 960ths, and "-" negates the number that comes next."""
        words: list[str] = []
        sign = 1
        for token in tokens:
            word = self.tokenizer.decode([token]).strip() if token > LAST_RESERVED else ""
            if word == "-":
                sign = -1
            elif re.fullmatch("-?[0-9]+", word):
                thousandths = f"{sign * int(word) / 960:.3f}".rstrip("0").rstrip(".")
                words.append("0" if thousandths == "-0" else thousandths)
                sign = 1
            elif word:
                words.append(word)
        return " ".join(words)

    def text(self, draws: Sequence[NaiveDraw]) -> str:
        return self.tokenizer.decode([d.token for d in draws if d.token not in (COORD, SIZE)])

    def reasoning(self, draws: Sequence[NaiveDraw]) -> dict[str, Any]:
        """The stripped text, and its chunks between ids 7 and 9 that hold points."""
        chunks: list[list[NaiveDraw]] = [[]]
        for draw in draws:
            if draw.token in (GROUND_START, GROUND_END):
                chunks.append([])
            else:
                chunks[-1].append(draw)
        texts = [self.text(chunk) for chunk in chunks]
        whole = "".join(texts)
        text, lead = whole.strip(), len(whole) - len(whole.lstrip())
        grounding, place = [], 0
        for chunk, own in zip(chunks, texts, strict=True):
            values = [draw.bins[0] / 1023 for draw in chunk if draw.token == COORD]
            points = [[values[i], values[i + 1]] for i in range(0, len(values) - 1, 2)]
            ends = [min(max(p - lead, 0), len(text)) for p in (place, place + len(own))]
            if points:
                grounding.append({"start_idx": ends[0], "end_idx": ends[1], "points": points})
            place += len(own)
        return {"text": text, "grounding": grounding}
