"""Download of saved checkpoints by signed links; http-api.md 12.5."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import itertools
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from contract.errors import RequestRefused, WorkerUnavailable
from server.db.models import Meta
from server.services import downloads
from tests.api.conftest import Serve
from tests.fakes import FAKE_MODEL, FakeEngine
from tests.service import Service, refusal, until

pytestmark = pytest.mark.anyio

KEY = {"X-Moondream-Auth": "secret"}


def path(finetune_id: str, step: int | str = 1) -> str:
    return f"/v1/tuning/finetunes/{finetune_id}/checkpoints/{step}/download"


async def saved(service: Service) -> str:
    finetune_id = await service.create()
    assert (await service.train(finetune_id)).status_code == 200
    await service.save(finetune_id)
    return finetune_id


async def link(service: Service, finetune_id: str, **options: Any) -> dict[str, Any]:
    answer = await service.get(path(finetune_id), **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def fetched(service: Service, finetune_id: str) -> bytes:
    file = await service.get((await link(service, finetune_id))["url"])
    assert file.status_code == 200, file.text
    return file.content


async def test_the_link_leads_to_the_file(service: Service) -> None:
    finetune_id = await saved(service)
    found = await link(service, finetune_id)
    assert found["url"].startswith("http://localhost/v1/files/")
    assert found["expires_in"] == 3600
    file = await service.get(found["url"])
    assert file.status_code == 200
    assert file.headers["content-type"] == "application/octet-stream"
    assert set(found) == {"url", "expires_in"}
    assert int(file.headers["content-length"]) == len(file.content)
    digest = base64.b64encode(hashlib.sha256(file.content).digest()).decode()
    assert file.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert unquote(file.headers["content-disposition"]).endswith(f"{finetune_id}@1.pt")


async def test_it_is_made_once(service: Service) -> None:
    finetune_id = await saved(service)
    first = await fetched(service, finetune_id)
    service.engine.state = "starting"  # the second needs no worker
    assert await fetched(service, finetune_id) == first
    assert service.engine.verbs().count("export_checkpoint") == 1


async def test_many_at_once_agree(service: Service) -> None:
    finetune_id = await saved(service)
    found = await asyncio.gather(*(fetched(service, finetune_id) for _ in range(6)))
    assert len(set(found)) == 1
    assert service.engine.verbs().count("export_checkpoint") == 1
    await service.settled()
    files = service.state_files(finetune_id)
    assert [name.partition(".")[2] for name in files if "exchange" in name] == ["exchange.pt"]


async def test_it_survives_later_steps_and_restarts(serve: Serve) -> None:
    async with serve() as service:
        finetune_id = await saved(service)
        first = await link(service, finetune_id)
        content = (await service.get(first["url"])).content
        for _ in range(3):
            await service.train(finetune_id)
        await service.settled()
    async with serve() as service:
        assert (await service.get(first["url"])).content == content


async def test_the_link_needs_no_key_and_the_question_does(serve: Serve) -> None:
    async with serve(api_key="secret") as service:
        service.http.headers.update(KEY)
        finetune_id = await saved(service)
        found = await link(service, finetune_id)
        del service.http.headers["X-Moondream-Auth"]
        assert (await service.get(found["url"])).status_code == 200
        refusal(await service.get(path(finetune_id)), 401, "invalid_api_key")


async def test_head_and_ranges(service: Service) -> None:
    url = (await link(service, await saved(service)))["url"]
    whole = (await service.get(url)).content
    head = await service.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(whole)
    part = await service.get(url, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(whole)}"
    rest = await service.get(url, headers={"Range": "bytes=4-"})
    assert rest.content == whole[4:]
    beyond = await service.get(url, headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416


async def test_an_expired_link(service: Service) -> None:
    now = itertools.count(1_000_000, 2000)
    service.app.state.services.links._clock = lambda: next(now)
    url = (await link(service, await saved(service)))["url"]
    assert (await service.get(url)).status_code == 200  # 2,000 seconds later
    refusal(await service.get(url), 403, "forbidden")  # 4,000


async def test_forged_links(service: Service) -> None:
    url = (await link(service, await saved(service)))["url"]
    head, _, token = url.rpartition("/")
    payload, _, mac = token.partition(".")
    for forged in (
        payload,
        f"{payload}.",
        f"{payload}.{mac[:-2]}",
        f"{payload}.{mac}=",
        f"{'A' + payload[1:]}.{mac}",
        f"{payload[:-1]}{'A' if payload[-1] != 'A' else 'B'}.{mac}",
        "ü.ü",
        "x",
    ):
        refusal(await service.get(f"{head}/{forged}"), 403, "forbidden")


async def test_links_of_another_server(serve: Serve) -> None:
    async with serve() as service:
        url = (await link(service, await saved(service)))["url"]
        token = url.rpartition("/")[2]
        downloads_of = service.app.state.services.downloads
        downloads_of._database.write_blocking(_forget_secret)
        refusal(await service.get(f"/v1/files/{token}"), 403, "forbidden")


def _forget_secret(session: Any) -> None:
    session.delete(session.get(Meta, "signing_secret"))


async def test_never_saved_and_deleted(service: Service) -> None:
    finetune_id = await saved(service)
    url = (await link(service, finetune_id))["url"]
    refusal(await service.get(path(finetune_id, 7)), 404, "checkpoint_not_found")
    refusal(await service.get(path(finetune_id, "latest")), 404, "checkpoint_not_found")
    await service.delete(path(finetune_id).removesuffix("/download"))
    await service.settled()
    refusal(await service.get(path(finetune_id)), 410, "checkpoint_deleted")
    refusal(await service.get(url), 404, "checkpoint_not_found")
    assert not [name for name in service.state_files(finetune_id) if "exchange" in name]


async def test_the_whole_finetune_deleted(service: Service) -> None:
    finetune_id = await saved(service)
    url = (await link(service, finetune_id))["url"]
    await service.delete(f"/v1/tuning/finetunes/{finetune_id}")
    refusal(await service.get(url), 404, "checkpoint_not_found")
    refusal(await service.get(path(finetune_id)), 404, "finetune_not_found")


async def test_deleted_while_it_is_made(service: Service) -> None:
    finetune_id = await saved(service)
    service.engine.gate.clear()
    asking = asyncio.create_task(service.get(path(finetune_id)))
    await until(lambda: "export_checkpoint" in service.engine.verbs())
    await service.delete(path(finetune_id).removesuffix("/download"))
    service.engine.gate.set()
    refusal(await asking, 410, "checkpoint_deleted")
    await service.settled()
    assert not [name for name in service.state_files(finetune_id) if "exchange" in name]


async def test_a_worker_that_dies_is_asked_again(service: Service) -> None:
    finetune_id = await saved(service)
    service.engine.faults.append(WorkerUnavailable("It died."))
    assert await fetched(service, finetune_id)
    assert service.engine.verbs().count("export_checkpoint") == 2
    await service.settled()
    assert len([name for name in service.state_files(finetune_id) if "exchange" in name]) == 1


async def test_a_file_that_takes_long_is_made_for_who_asks_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.02)
    finetune_id = await saved(service)
    service.engine.gate.clear()
    for _ in range(3):
        refusal(await service.get(path(finetune_id)), 503, "overloaded")
    service.engine.gate.set()
    await service.app.state.services.downloads.close()
    assert await fetched(service, finetune_id)
    assert service.engine.verbs().count("export_checkpoint") == 1


async def test_a_lost_file_is_made_again(service: Service) -> None:
    finetune_id = await saved(service)
    url = (await link(service, finetune_id))["url"]
    content = (await service.get(url)).content
    folder = service.data_dir / "finetunes" / finetune_id
    (file,) = folder.glob("*.exchange.pt")
    file.write_bytes(b"cut")
    refusal(await service.get(url), 404, "checkpoint_not_found")
    assert await fetched(service, finetune_id) == content
    assert (await service.get(url)).content == content


async def test_a_file_that_does_not_agree_is_no_file(service: Service) -> None:
    finetune_id = await saved(service)
    service.engine.faults.append(RequestRefused("Logits differ by 3."))
    answer = await service.get(path(finetune_id))
    assert refusal(answer, 422, "validation_error")["message"] == "Logits differ by 3."


async def test_another_base_model_is_loaded(serve: Serve) -> None:
    async with serve() as service:
        finetune_id = await saved(service)
    other = FakeEngine(dataclasses.replace(FAKE_MODEL, digest="e" * 64))
    async with serve(other) as service:
        refusal(await service.get(path(finetune_id)), 409, "base_model_mismatch")


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "tune.example"}


class TestAddress:
    """`url` is absolute: from `public_url`, else from the request as far as it is believed."""

    async def url(self, service: Service, **options: Any) -> str:
        parts = urlsplit((await link(service, await saved(service), **options))["url"])
        return f"{parts.scheme}://{parts.netloc}"

    async def test_public_url(self, serve: Serve) -> None:
        async with serve(public_url="https://tune.example/", allow_open=True) as service:
            assert await self.url(service) == "https://tune.example"

    async def test_forwarded_by_a_stranger(self, service: Service) -> None:
        assert await self.url(service, headers=FORWARDED) == "http://localhost"

    async def test_forwarded_by_a_trusted_proxy(self, serve: Serve) -> None:
        async with serve(trusted_proxies=("127.0.0.0/8",)) as service:
            assert await self.url(service, headers=FORWARDED) == "https://tune.example"

    async def test_the_host_of_the_request(self, serve: Serve) -> None:
        async with serve(api_key="secret") as service:
            service.http.headers.update(KEY)
            got = await self.url(service, headers={"Host": "gpu-box:8000"})
            assert got == "http://gpu-box:8000"


async def test_tokens_are_not_logged(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    url = (await link(service, await saved(service)))["url"]
    capsys.readouterr()
    assert isinstance(await service.get(url), httpx.Response)
    logged = capsys.readouterr().out
    assert "/v1/files/..." in logged
    assert url.rpartition("/")[2] not in logged
