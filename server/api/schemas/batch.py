"""The bodies of batches: the list of parts, and the lines of the file; http-api.md section 16."""

from __future__ import annotations

from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import from_json

from contract.skills import ChatRequest, ChatTurn, Skill
from server.api.json_body import opaque_faults, validation_failed
from server.api.schemas.fields import Integer, Text
from server.api.schemas.inference import CaptionFields
from server.api.schemas.skills import DetectFields, PointFields, QueryFields, settings_for
from server.domain.body import Body
from server.domain.errors import FieldFault, InvalidModelError, ServiceError
from server.domain.sampling import Purpose
from server.services.batches.errors import LineFault, LineRefusedError
from server.services.batches.lines import LineOrder
from server.services.batches.uploads import PartOfUpload
from server.services.images import ImageUrls

Fields = QueryFields | CaptionFields | PointFields | DetectFields

_LINES: dict[str, type[Fields]] = {
    Skill.CAPTION: CaptionFields,
    Skill.QUERY: QueryFields,
    Skill.DETECT: DetectFields,
    Skill.POINT: PointFields,
}
_MAX_SHOWN_CHARACTERS = 64

MAX_PICTURES = 8
"""Of one query; each takes some 730 positions of the context."""


class PartBody(Body):
    partNumber: Integer  # noqa: N815 -- its name on the wire
    etag: Text


class CompleteBody(Body):
    parts: list[PartBody]
    model: Any = None

    def listed(self) -> list[PartOfUpload]:
        """Return the parts."""
        return [PartOfUpload(number=part.partNumber, etag=part.etag) for part in self.parts]

    def model_name(self) -> str | None:
        """Return the model; None is the base model.

        Raises:
            InvalidModelError: It is no text.
        """
        if self.model is not None and not isinstance(self.model, str):
            raise InvalidModelError("model: should be a string.", loc=("body", "model"))
        return self.model or None


def read_line(text: bytes, *, max_generation_tokens: int) -> LineOrder:
    """Read one line of a batch.

    Raises:
        LineRefusedError: What is wrong, with the line's `id` if it could be read.
    """
    tree = _read_json(text)
    id = tree.get("id")
    fault = next(opaque_faults(tree, ("body",), may_have_nul=b"\\u0000" in text), None)
    if fault is not None:
        raise _invalid(_told(fault), id=None if fault.loc[1:2] == ("id",) else id)
    try:
        return _order(tree, id, max_generation_tokens)
    except LineRefusedError:
        raise
    except ValidationError as error:
        raise _invalid(validation_failed(error).message.replace("image_url", "image"), id) from None
    except ServiceError as error:
        raise _invalid(error.message, id) from None


def _order(tree: dict[str, Any], id: Any, max_generation_tokens: int) -> LineOrder:
    skill = tree.get("skill")
    if not isinstance(skill, str):
        raise _invalid("skill: should be caption, query, detect or point.", id)
    if skill not in _LINES:
        raise LineRefusedError(
            LineFault.UNKNOWN_SKILL,
            f"The skill {skill[:_MAX_SHOWN_CHARACTERS]!r} is not one of batches; they have"
            " caption, query, detect and point.",
            id=id,
        )
    pictures = [_as_data_url(picture) for picture in _pictures_of(tree, skill, id)]
    sent = {**tree, "image_url": pictures[0]}
    if skill == Skill.QUERY and tree.get("reasoning") is None:
        sent["reasoning"] = True
    fields = _LINES[skill].model_validate(sent)
    images = ImageUrls()
    if isinstance(fields, QueryFields) and len(pictures) > 1:
        request = _about_several(fields, pictures, images, id)
    else:
        request = fields.to_contract(images, ("body",))
    return LineOrder(
        id=id,
        request=request,
        images=images.collected(),
        settings=settings_for(
            fields.settings,
            Skill(skill),
            purpose=Purpose.INFERENCE,
            max_generation_tokens=max_generation_tokens,
        ),
    )


def _read_json(text: bytes) -> dict[str, Any]:
    if not text.strip():
        raise _invalid("The line is blank; a batch has one JSON object a line.")
    try:
        tree = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _invalid(f"The line is not valid JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise _invalid("The line should be a JSON object.")
    return cast("dict[str, Any]", tree)


def _about_several(
    fields: QueryFields, pictures: list[str], images: ImageUrls, id: Any
) -> ChatRequest:
    """A query about several pictures: a chat of one turn, which the model reads as it reads one."""
    if fields.spatial_refs:
        raise _invalid("spatial_refs: point into one picture; send one, or leave them out.", id)
    indices = [images.add(url, ("body", "images", i)) for i, url in enumerate(pictures)]
    return ChatRequest(
        turns=(ChatTurn(text=fields.question, images=tuple(indices)),),
        reasoning=bool(fields.reasoning),
    )


def _pictures_of(tree: dict[str, Any], skill: str, id: Any) -> list[str]:
    """The pictures of a line: `image`, for a query `images` in its place, or `image_url`."""
    image, images = tree.get("image"), tree.get("images")
    if images is not None:
        if skill != Skill.QUERY:
            raise _invalid(f"images: {skill} takes one picture; send it as image.", id)
        if image is not None:
            raise _invalid("images: stands in the place of image; send one of them.", id)
        listed = cast("list[Any]", images) if isinstance(images, list) else []
        if not 1 <= len(listed) <= MAX_PICTURES:
            raise _invalid(f"images: should be a list of 1 to {MAX_PICTURES} pictures.", id)
        if not all(isinstance(picture, str) for picture in listed):
            raise _invalid("images: should be strings, in base64 or base64 data URLs.", id)
        return listed
    if image is None:
        image = tree.get("image_url")
    if image is None:
        raise _invalid("image: Field required.", id)
    if not isinstance(image, str):
        raise _invalid("image: should be a string, in base64 or a base64 data URL.", id)
    return [image]


def _as_data_url(image: str) -> str:
    """Bare base64 as a data URL; what has a scheme of its own is left to the decoder."""
    beginning = image[:_MAX_SHOWN_CHARACTERS].lstrip().lower()
    return image if beginning.startswith(("data:", "http:", "https:")) else f"data:;base64,{image}"


def _told(fault: FieldFault) -> str:
    return f"{'.'.join(map(str, fault.loc[1:]))}: {fault.message}."


def _invalid(message: str, id: Any = None) -> LineRefusedError:
    return LineRefusedError(LineFault.INVALID_REQUEST, message, id=id)
