"""What is closed unless somebody opens it; bar S9. Keys and bodies are in test_transport.py."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import urljoin

import httpx
import pytest

from tests.api.conftest import Serve
from tests.described import DOCS
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
    return [*named, *(("GET", path) for path in DOCS)]


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


async def test_behind_a_public_address_nobody_calls_without_a_key(serve: Serve) -> None:
    """A proxy passes on `Host: localhost` as any other, so that the name guards nothing there."""
    async with serve(public_url="https://tune.example") as service:
        for host in ("localhost", "127.0.0.1", "tune.example"):
            refusal(await ask(service, "GET", "/v1/models", Host=host), 401, "invalid_api_key")


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
    """What a page loads, and what runs in it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.attributes: set[str] = set()
        self.written: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("src", "href", "srcset", "data", "action"):
                self.loads.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._tag in ("script", "style") and data.strip():
            self.written.append(data)


async def test_the_page_of_the_api_needs_nothing_from_elsewhere(service: Service) -> None:
    answer = await service.get("/docs")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert not page.tags & {"iframe", "object", "embed", "form", "img", "base", "style"}
    assert "style" not in page.attributes
    assert not [name for name in page.attributes if name.startswith("on")]
    assert page.written == []
    addresses = {urljoin("/docs", load) for load in page.loads if not load.startswith("data:")}
    assert addresses == set(DOCS) - {"/docs"}
    for address in addresses:
        assert (await service.get(address)).status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-frame-options"] == "DENY"


async def test_what_the_page_loads_is_of_the_type_that_a_browser_runs(service: Service) -> None:
    """`nosniff` makes a browser refuse scripts and styles of another type."""
    types = {".js": "text/javascript", ".css": "text/css"}
    for address in DOCS:
        wanted = types.get(PurePosixPath(address).suffix)
        answer = await service.get(address)
        assert wanted is None or answer.headers["content-type"].startswith(wanted), address


async def test_what_starts_the_page_asks_this_server_and_no_validator(service: Service) -> None:
    start = (await service.get("/docs/start.js")).text
    assert 'url: "openapi.json"' in start
    assert "validatorUrl: null" in start
    assert "queryConfigEnabled: false" in start  # No address chooses another document.
    assert "persistAuthorization: false" in start
    assert "//" not in start
    program = (await service.get("/docs/swagger-ui-bundle.js")).text
    assert "SwaggerUIBundle" in program
    assert all(f"{option}:" in program for option in re.findall(r"^  (\w+):", start, re.MULTILINE))
