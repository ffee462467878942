"""The query skill: a question in words, with or without a picture, and a free answer.

With reasoning the model first writes a thought, which the answer token ends. Phrases may be
grounded in it: `start phrase x y x y end`. Source: model-facts.md section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from contract.skills import GroundTruth, QueryRequest, QueryTarget, Reasoning
from trainer.model.bins import coord_bin
from trainer.sequence import Element, spatial_elements, text_elements
from trainer.skills.base import Language, TextGrammar, WireTrace


class QuerySkill:
    def prompt(self, request: QueryRequest, language: Language) -> list[Element]:
        ids = language.ids
        template = ids.templates.query
        refs = spatial_elements(request.spatial_refs, coord_id=ids.coord_id, size_id=ids.size_id)
        return [
            *text_elements(template.prefix),
            *refs,
            *text_elements(language.tokenizer.encode(request.question)),
            *text_elements(
                template.reasoning_prefix if request.reasoning else template.answer_prefix
            ),
        ]

    def grammar(self, request: QueryRequest, language: Language) -> TextGrammar:
        return TextGrammar(language, is_reasoning=request.reasoning)

    def output(self, request: QueryRequest, wire: WireTrace, language: Language) -> dict[str, Any]:
        return answer_output(wire, is_reasoning=request.reasoning, language=language)

    def wire_from_output(
        self, request: QueryRequest, output: dict[str, Any], language: Language
    ) -> WireTrace | None:
        answer = output.get("answer")
        if not isinstance(answer, str):
            return None
        reasoning = None
        if request.reasoning:
            text = reasoning_text(output.get("reasoning"))
            if text is None:
                return None
            reasoning = Reasoning(text=text)
        return self.wire_from_target(
            request, QueryTarget(answer=answer, reasoning=reasoning), language
        )

    def wire_from_target(
        self, request: QueryRequest, target: QueryTarget, language: Language
    ) -> WireTrace:
        thinking: list[int] = []
        coords: list[int] = []
        if target.reasoning is not None:
            thinking, coords = _thought(target.reasoning, language)
        return WireTrace(
            thinking_tokens=tuple(thinking),
            has_answer_separator=request.reasoning,
            answer_tokens=tuple(language.tokenizer.encode(target.answer)),
            coords=tuple(coords),
        )

    def reward(self, output: dict[str, Any], truth: GroundTruth) -> float:
        raise ValueError("query has no ground truth; score its answers on the client")


def answer_output(wire: WireTrace, *, is_reasoning: bool, language: Language) -> dict[str, Any]:
    """The answer to a question and, if it was asked for, the thought that led to it."""
    output: dict[str, Any] = {"answer": text_of(wire.answer_tokens, language).strip()}
    if is_reasoning:
        output["reasoning"] = _reasoning_of(wire.thinking_tokens, wire.coords, language)
    return output


def reasoning_text(given: Any) -> str | None:
    """The text of a reasoning that callers send as an object with `text`, or as a plain string."""
    text = given.get("text") if isinstance(given, dict) else given
    return text if isinstance(text, str) else None


def text_of(tokens: Sequence[int], language: Language) -> str:
    """The text of an answer; spatial tokens and grounding marks are not part of it."""
    ids = language.ids
    hidden = {ids.coord_id, ids.size_id, ids.start_ground_points_id, ids.end_ground_id}
    return language.tokenizer.decode([token for token in tokens if token not in hidden])


def _thought(reasoning: Reasoning, language: Language) -> tuple[list[int], list[int]]:
    """Tokens and coordinate bins of a thought that is to be learned."""
    ids, encode = language.ids, language.tokenizer.encode
    tokens: list[int] = []
    coords: list[int] = []
    position = 0
    for span in sorted(reasoning.grounding, key=lambda span: (span.start_idx, span.end_idx)):
        tokens += encode(reasoning.text[position : span.start_idx])
        tokens.append(ids.start_ground_points_id)
        tokens += encode(reasoning.text[span.start_idx : span.end_idx])
        for x, y in span.points:
            tokens += [ids.coord_id, ids.coord_id]
            coords += [coord_bin(x), coord_bin(y)]
        tokens.append(ids.end_ground_id)
        position = span.end_idx
    return tokens + encode(reasoning.text[position:]), coords


def _reasoning_of(
    tokens: Sequence[int], coords: Sequence[int], language: Language
) -> dict[str, Any]:
    """Text and grounding of a drawn thought; offsets count characters of the stripped text."""
    pieces: list[str] = []
    grounding: list[dict[str, Any]] = []
    start = 0
    for text, bins in _chunks(tokens, coords, language):
        pieces.append(text)
        values = [language.coord(b) for b in bins]
        points = [[x, y] for x, y in zip(values[::2], values[1::2], strict=False)]
        if points:
            grounding.append({"start_idx": start, "end_idx": start + len(text), "points": points})
        start += len(text)
    whole = "".join(pieces)
    text = whole.strip()
    num_cut = len(whole) - len(whole.lstrip())
    for span in grounding:
        for key in ("start_idx", "end_idx"):
            span[key] = min(max(span[key] - num_cut, 0), len(text))
    return {"text": text, "grounding": grounding}


def _chunks(
    tokens: Sequence[int], coords: Sequence[int], language: Language
) -> Iterator[tuple[str, list[int]]]:
    """Text and coordinate bins between one grounding mark and the next."""
    ids = language.ids
    bins = iter(coords)
    chunk_tokens: list[int] = []
    chunk_bins: list[int] = []
    for token in tokens:
        if token in (ids.start_ground_points_id, ids.end_ground_id):
            yield text_of(chunk_tokens, language), chunk_bins
            chunk_tokens, chunk_bins = [], []
        elif token == ids.coord_id:
            chunk_bins.append(next(bins))
        else:
            chunk_tokens.append(token)
    yield text_of(chunk_tokens, language), chunk_bins
