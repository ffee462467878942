"""What is closed unless somebody opens it; bar S9. Keys and bodies are in test_transport.py."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from tests.service import Service, refusal

ONE_DATABASE_IS_ENOUGH = True  # This is about HTTP.

pytestmark = pytest.mark.anyio


async def every_route(service: Service) -> list[tuple[str, str]]:
    """Method and address of all that the document names, and of what it does not name."""
    document = (await service.get("/openapi.json")).json()
    named = [
        (method.upper(), re.sub(r"\{\w+\}", "1", path))
        for path, operations in document["paths"].items()
        for method in operations
    ]
    return [*named, ("GET", "/docs"), ("GET", "/openapi.json")]


async def ask(service: Service, method: str, path: str, **headers: str) -> httpx.Response:
    content = b"{}" if method == "POST" else b""
    return await service.http.request(method, path, content=content, headers=headers)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
        *(
            "localhost@evil.example",
            "[::1].evil.example",
            "0.0.0.0",
            "192.168.0.7",
            "",
            "2130706433",
        ),
    ],
)
async def test_open_mode_answers_no_other_name_on_any_route(service: Service, host: str) -> None:
    for method, path in await every_route(service):
        refusal(await ask(service, method, path, Host=host), 403, "forbidden")


async def test_a_host_in_another_header_opens_nothing(service: Service) -> None:
    names = ("X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-Host", "X-HTTP-Host-Override")
    for name in names:
        answer = await ask(service, "GET", "/docs", Host="evil.example", **{name: "localhost"})
        refusal(answer, 403, "forbidden")


async def test_no_answer_invites_other_origins_or_guesses_of_its_type(service: Service) -> None:
    for method, path in await every_route(service):
        answer = await ask(service, method, path, Origin="https://evil.example")
        assert not [name for name in answer.headers if name.startswith("access-control-")], path
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers
        kind = answer.headers["content-type"].partition(";")[0]
        assert (kind == "text/html") is (path == "/docs"), (path, kind)


async def test_a_browser_gets_no_answer_to_its_question_before_a_call(service: Service) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for _, path in await every_route(service):
        answer = await service.http.options(path, headers=asked)
        assert answer.status_code in (405, 404), path
        assert not [name for name in answer.headers if name.startswith("access-control-")]


class Page(HTMLParser):
    """What a page would load, and what would run in it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.add(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href", "srcset", "data", "action", "style"):
                self.loads.append(f"{tag} {name}={value}")


async def test_the_page_of_the_api_needs_nothing_from_elsewhere(service: Service) -> None:
    answer = await service.get("/docs")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert page.loads == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form", "img", "base"}
    assert not [name for name in page.attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", answer.text)
    assert set(page.links) - {"/openapi.json"} <= {f"#{name}" for name in page.ids}
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"


async def test_the_page_has_every_route_every_parameter_and_every_field(service: Service) -> None:
    text = (await service.get("/docs")).text
    document: Any = (await service.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f'<span class="method">{method.upper()}</span> {path}</h3>' in text
            for parameter in operation.get("parameters", ()):
                assert f"<code>{parameter['name']}</code>" in text
    for name, schema in document["components"]["schemas"].items():
        assert f'id="{name}"' in text
        assert all(f"<code>{field}</code>" in text for field in schema.get("properties", ()))
