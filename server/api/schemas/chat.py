"""The body of chat completions: OpenAI's, as far as it means something here; http-api.md 14."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from contract.skills import ChatRequest, ChatTurn, Skill
from server.api.schemas.fields import Flag, Integer, Items, Text
from server.api.schemas.inference import Model
from server.api.schemas.skills import UNION_TAG
from server.domain.body import Body, Number
from server.domain.errors import Loc, UnsupportedParameterError, ValidationFailedError
from server.domain.sampling import Purpose, SentSettings, resolve_settings
from server.services.images import ImageUrls
from server.services.inference import AnswerOrder


def _tag_of(names: tuple[str, ...], key: str) -> Callable[[Any], str | None]:
    """Which body an object is to be read as, by the value of one of its fields."""

    def tag(value: Any) -> str | None:
        name: Any = getattr(value, key, None)
        if isinstance(value, dict):
            name = cast("dict[str, Any]", value).get(key)
        return UNION_TAG + name if name in names else None

    return tag


def _by_kind(value: Any) -> str | None:
    """Which of text and a list or an object something is."""
    if isinstance(value, str):
        return UNION_TAG + "text"
    return UNION_TAG + "other" if isinstance(value, list | dict | Body) else None


class TextPart(Body):
    type: Literal["text"]
    text: Text


class ImageUrlBody(Body):
    url: Text


ImageUrlField = Annotated[
    Annotated[Text, Tag("~text")] | Annotated[ImageUrlBody, Tag("~other")],
    Discriminator(
        _by_kind,
        custom_error_type="image_url_type",
        custom_error_message="Should be an object with url, or a text",
    ),
]


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrlField

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[
    Annotated[TextPart, Tag("~text")] | Annotated[ImagePart, Tag("~image_url")],
    Discriminator(
        _tag_of(("text", "image_url"), "type"),
        custom_error_type="part_type",
        custom_error_message="A part should have the type text or image_url",
    ),
]

Content = Annotated[
    Annotated[Text, Tag("~text")] | Annotated[Items[Part], Tag("~other")],
    Discriminator(
        _by_kind,
        custom_error_type="content_type",
        custom_error_message="Should be a text or a list of parts",
    ),
]


class MessageBody(Body):
    role: Literal["system", "user", "assistant"]
    content: Content

    @property
    def text(self) -> str:
        """Its texts, a line each."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    def pictures(self) -> Iterator[tuple[str, Loc]]:
        """Its pictures, and where in the message each stands."""
        parts = () if isinstance(self.content, str) else self.content
        for index, part in enumerate(parts):
            if isinstance(part, ImagePart):
                is_text = isinstance(part.image_url, str)
                loc = ("content", index, "image_url")
                yield part.url, loc if is_text else (*loc, "url")


class StreamOptionsBody(Body):
    include_usage: Flag | None = None


class ChatBody(Body):
    messages: Annotated[Items[MessageBody], Field(min_length=1)]
    model: Model = None
    temperature: Annotated[Number, Field(ge=0)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    max_completion_tokens: Annotated[Integer, Field(ge=1)] | None = None
    max_tokens: Annotated[Integer, Field(ge=1)] | None = None
    reasoning: Flag | None = None
    stream: Flag | None = None
    stream_options: StreamOptionsBody | None = None
    n: Any = None
    tools: Any = None
    functions: Any = None
    stop: Any = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream tells at its end what it cost."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def to_order(
        self, *, fingerprint: bytes, received_at: float, max_generation_tokens: int
    ) -> AnswerOrder:
        """Return what is asked for.

        Raises:
            UnsupportedParameterError: A field that would change the answer and is not served.
            ValidationFailedError: Messages that are no conversation.
        """
        self._refuse_unsupported()
        images = ImageUrls()
        request = ChatRequest(
            turns=tuple(_turns(self._conversation(), images)),
            system=self.messages[0].text.strip() if self.messages[0].role == "system" else "",
            reasoning=bool(self.reasoning),
        )
        max_tokens = self.max_completion_tokens or self.max_tokens
        return AnswerOrder(
            model=self.model,
            request=request,
            images=images.collected(),
            settings=resolve_settings(
                Skill.CHAT,
                SentSettings(temperature=self.temperature, top_p=self.top_p, max_tokens=max_tokens),
                purpose=Purpose.INFERENCE,
                max_generation_tokens=max_generation_tokens,
            ),
            fingerprint=fingerprint,
            received_at=received_at,
        )

    def _refuse_unsupported(self) -> None:
        if self.n is not None and (isinstance(self.n, bool) or self.n != 1):
            raise UnsupportedParameterError(
                "One answer is given to a call; leave n out, or send 1.", loc=("body", "n")
            )
        for name in ("tools", "functions", "stop"):
            if getattr(self, name):
                raise UnsupportedParameterError(
                    f"{name} is not supported here; leave it out.", loc=("body", name)
                )

    def _conversation(self) -> list[tuple[Loc, MessageBody]]:
        """The messages behind the system's, checked, and where each stands.

        Raises:
            ValidationFailedError: Roles in an order that is no conversation, or pictures that are
                not a user's.
        """
        located: list[tuple[Loc, MessageBody]] = [
            (("body", "messages", index), message) for index, message in enumerate(self.messages)
        ]
        for loc, message in located:
            if message.role != "user" and next(message.pictures(), None) is not None:
                raise ValidationFailedError(
                    "Only messages of the user have pictures.", loc=(*loc, "content")
                )
        if located[0][1].role == "system":
            del located[0]
        for loc, message in located:
            if message.role == "system":
                raise ValidationFailedError(
                    "Only the first message may have the role system.", loc=(*loc, "role")
                )
        if not located or located[0][1].role != "user":
            raise ValidationFailedError(
                "The first message, or the first behind the system's, should be the user's.",
                loc=("body", "messages"),
            )
        if located[-1][1].role != "user":
            raise ValidationFailedError(
                "The last message should be the user's: it is what is answered.",
                loc=(*located[-1][0], "role"),
            )
        return located


def _turns(messages: list[tuple[Loc, MessageBody]], images: ImageUrls) -> Iterator[ChatTurn]:
    """Pair what the user said with what was answered; messages of one role in a row are one.

    Raises:
        ValidationFailedError: The user says and shows nothing.
    """
    asked: ChatTurn | None = None
    for role, group in groupby(messages, key=lambda located: located[1].role):
        located = list(group)
        if role == "user":
            asked = _asked(located, images)
        else:
            assert asked is not None, "the user begins"
            answer = "\n\n".join(message.text for _, message in located)
            yield ChatTurn(text=asked.text, images=asked.images, answer=answer)
            asked = None
    assert asked is not None, "the user ends"
    yield asked


def _asked(located: list[tuple[Loc, MessageBody]], images: ImageUrls) -> ChatTurn:
    shown = tuple(
        images.add(url, (*loc, *within))
        for loc, message in located
        for url, within in message.pictures()
    )
    text = "\n\n".join(message.text for _, message in located).strip()
    if not text and not shown:
        raise ValidationFailedError(
            "A message of the user should not be empty.", loc=(*located[0][0], "content")
        )
    return ChatTurn(text=text, images=shown)
