"""Names, ids and picture URLs of strangers on every route; headers that mean nothing; S7, S8."""

from __future__ import annotations

import urllib.parse
from typing import Any

import pytest

from tests.api.conftest import Serve
from tests.hostile.names import NUM_NAMES, names
from tests.hostile.picture_urls import NUM_URLS, picture_urls
from tests.hostile.surface import CHAT, Known, Slot, missing_examples, picture_routes, slots
from tests.service import Service, refusal

ONE_DATABASE_IS_ENOUGH = True  # Bar S8 tries a real server.

pytestmark = pytest.mark.anyio

NAMES_OF_A_SLOT = 8


@pytest.fixture
async def known(service: Service) -> Known:
    """A finetune with a saved step, numbers and a link."""
    finetune_id = await service.create()
    assert (await service.train(finetune_id)).status_code == 200
    assert (await service.save(finetune_id)).status_code == 200
    path = f"/v1/tuning/finetunes/{finetune_id}/checkpoints/1/download"
    url = (await service.get(path)).json()["url"]
    return Known(finetune_id=finetune_id, step=1, token=url.rpartition("/")[2])


async def document(service: Service) -> Any:
    return (await service.get("/openapi.json")).json()


async def send(service: Service, slot: Slot, name: str, known: Known) -> Any:
    method, address, body = slot.request(name, known)
    return await service.http.request(method, address, content=body)


def test_there_are_as_many_as_is_said() -> None:
    assert len(set(names())) == NUM_NAMES == 500
    assert len(set(picture_urls())) == NUM_URLS == 300


async def test_every_parameter_and_every_text_of_a_body_has_an_example(
    service: Service, known: Known
) -> None:
    assert missing_examples(await document(service), known) == []


async def test_the_examples_are_sound(service: Service, known: Known) -> None:
    for path, bodies in known.bodies().items():
        if path.startswith("/v1/batch"):
            continue  # that asks for an upload; tests/api/test_batch.py has them all
        for body in bodies:
            address = path.replace("{finetune_id}", known.finetune_id)
            answer = await service.post(address, body)
            assert answer.status_code == 200, (path, answer.text)


async def test_no_name_in_any_place_is_a_crash_or_a_path(service: Service, known: Known) -> None:
    every, place = names(), 0
    before = {path for path in service.data_dir.parent.rglob("*") if path.is_file()}
    for slot in slots(await document(service), known):
        for _ in range(NAMES_OF_A_SLOT):
            name, place = every[place % NUM_NAMES], place + 1
            answer = await send(service, slot, name, known)
            assert answer.status_code < 500, (slot, name, answer.text)
            assert answer.status_code not in (201, 202, 204, 301, 302, 307, 308), (slot, name)
            if answer.status_code != 200:
                refusal(answer, answer.status_code, answer.json()["error"]["code"])
    assert place >= NUM_NAMES  # each name was somewhere
    await service.settled()
    made = {path for path in service.data_dir.parent.rglob("*") if path.is_file()} - before
    homes = (service.data_dir / "finetunes", service.data_dir / "spool")
    strays = [path for path in made if not any(path.is_relative_to(home) for home in homes)]
    assert [path for path in strays if not path.name.startswith("moontune.db")] == []
    series = (await service.get("/metrics")).text.splitlines()
    assert len([line for line in series if not line.startswith("#")]) < 2000


async def test_nothing_that_is_no_data_url_is_a_picture_on_any_route(
    service: Service, known: Known
) -> None:
    routes = set()
    for slot in picture_routes(await document(service), known):
        status = 400 if slot.path == CHAT else 422
        every = picture_urls() if slot.path not in routes else picture_urls()[::10]
        routes.add(slot.path)
        for url in every:
            answer = await send(service, slot, url, known)
            body = refusal(answer, status, "image_url_scheme")
            assert "base64 data URL" in body["message"]
            if "groups" in slot.pointer:
                assert body["error"]["param"].startswith(f"groups.{slot.pointer[1]}.")
    assert len(routes) >= 7
    assert service.decoder.num_decoded <= 1  # of what the fixture trained


HEADERS = {
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-For": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Prefix": "/etc",
    "X-Forwarded-Server": "evil.example",
    "Forwarded": "host=evil.example;proto=https",
    "X-Original-URL": "/healthz",
    "X-Rewrite-URL": "/healthz",
    "X-HTTP-Method-Override": "DELETE",
    "X-Accel-Redirect": "/etc/passwd",
    "X-Sendfile": "/etc/passwd",
    "Referer": "http://evil.example",
    "Origin": "http://evil.example",
    "Destination": "http://evil.example",
    "Content-Location": "file:///etc/passwd",
    "X-Data-Dir": "/etc",
    "Idempotency-Key": "../../../etc/passwd",
    "X-Request-Id": "../../../etc/passwd",
    "Range": "bytes=0-99999999999999999999",
    "If-Range": "/etc/passwd",
    "Proxy": "http://evil.example",
    "Upgrade": "h2c",
}


async def test_no_header_is_an_address_or_a_path(service: Service, known: Known) -> None:
    path = f"/v1/tuning/finetunes/{known.finetune_id}"
    plain = await service.get(path)
    link = f"{path}/checkpoints/1/download"
    for name, value in HEADERS.items():
        answer = await service.get(path, headers={name: value})
        assert (answer.status_code, answer.content) == (200, plain.content), name
        assert "evil" not in str(answer.headers)
        url = (await service.get(link, headers={name: value})).json()["url"]
        assert urllib.parse.urlsplit(url)[:2] == ("http", "localhost"), name


async def test_a_link_names_only_hosts_that_we_answer_to(serve: Serve) -> None:
    """With a key any Host is answered, and a link leads back to where its caller asked."""
    async with serve(api_key="secret", public_url="https://tune.example") as service:
        service.http.headers["X-Moondream-Auth"] = "secret"
        finetune_id = await service.create()
        await service.train(finetune_id)
        await service.save(finetune_id)
        path = f"/v1/tuning/finetunes/{finetune_id}/checkpoints/1/download"
        answer = await service.get(path, headers={"Host": "evil.example"})
        assert answer.json()["url"].startswith("https://tune.example/v1/files/")
