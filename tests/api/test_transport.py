"""What holds for every call: keys, hosts, paths, bodies, ids, the error body; http-api.md 2, 3."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.app import create_app
from server.config import ServerConfig
from tests.api.conftest import Serve
from tests.factories import make_request
from tests.fakes import FakeEngine, FakeImageDecoder
from tests.service import Service, refusal

ONE_DATABASE_IS_ENOUGH = True  # This is about HTTP.

pytestmark = pytest.mark.anyio

FINETUNES = "/v1/tuning/finetunes"
CREATE = {"name": "a", "rank": 8}
JSON_ROUTES = (
    FINETUNES,
    "/v1/tuning/rollouts",
    "/v1/tuning/train_step",
    f"{FINETUNES}/x/metrics",
    "/v1/query",
    "/v1/caption",
    "/v1/point",
    "/v1/detect",
)
OTHER_ROUTES = (
    ("GET", FINETUNES),
    ("GET", f"{FINETUNES}/x"),
    ("DELETE", f"{FINETUNES}/x"),
    ("GET", f"{FINETUNES}/x/metrics"),
    ("GET", f"{FINETUNES}/x/checkpoints"),
    ("POST", f"{FINETUNES}/x/checkpoints/save"),
    ("DELETE", f"{FINETUNES}/x/checkpoints/1"),
    ("POST", "/v1/segment"),
    ("POST", "/v1/batch"),
    ("GET", "/v1/batch"),
    ("GET", "/v1/batch/x"),
    ("PUT", "/v1/batch/x"),
    ("POST", "/v1/batch/x"),
    ("DELETE", "/v1/batch/x"),
)


# --- keys


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Moondream-Auth": "wrong"},
        {"X-Moondream-Auth": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic secret"},
        {"Authorization": "secret"},
        {"X-Moondream-Auth": "wrong", "Authorization": "Bearer secret"},
        {"x-api-key": "secret"},
        {"X-Moondream-Auth": "s\xe9cret"},
    ],
)
async def test_every_route_but_health_needs_the_key(serve: Serve, headers: dict[str, str]) -> None:
    async with serve(api_key="secret") as service:
        for method, path in (*OTHER_ROUTES, *(("POST", path) for path in JSON_ROUTES)):
            answer = await service.http.request(method, path, headers=_latin(headers))
            refusal(answer, 401, "invalid_api_key")
        assert (await service.get("/healthz")).status_code == 200
        assert (await service.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Moondream-Auth": "secret"},
        {"X-Moondream-Auth": "  secret  "},
        {"Authorization": "Bearer secret"},
        {"Authorization": "bearer  secret "},
        {"X-Moondream-Auth": "secret", "Authorization": "Bearer wrong"},
        {"X-Moondream-Auth": "", "Authorization": "Bearer secret"},
    ],
)
async def test_both_headers_carry_the_key(serve: Serve, headers: dict[str, str]) -> None:
    async with serve(api_key="secret") as service:
        answer = await service.http.get(FINETUNES, headers=headers)
        assert answer.status_code == 200


async def test_in_open_mode_any_key_will_do(service: Service) -> None:
    for headers in ({}, {"X-Moondream-Auth": ""}, {"X-Moondream-Auth": "anything"}):
        assert (await service.http.get(FINETUNES, headers=headers)).status_code == 200


def _latin(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {key.encode(): value.encode("latin-1") for key, value in headers.items()}


# --- hosts


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:2021", True),
        ("127.0.0.1:2021", True),
        ("[::1]:2021", True),
        ("tuner.lan", True),
        ("Other.lan:2021", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
async def test_in_open_mode_the_host_must_be_ours(serve: Serve, host: str, allowed: bool) -> None:
    async with serve(allowed_hosts=("tuner.lan", "Other.LAN")) as service:
        answer = await service.http.get(FINETUNES, headers={"Host": host})
        if allowed:
            assert answer.status_code == 200
        else:
            refusal(answer, 403, "forbidden")


async def test_on_every_address_numbers_are_hosts(serve: Serve) -> None:
    async with serve(host="0.0.0.0", allow_open=True) as service:
        assert (await service.get(FINETUNES, headers={"Host": "10.0.0.1"})).status_code == 200
        refusal(await service.get(FINETUNES, headers={"Host": "a.example"}), 403, "forbidden")


async def test_with_a_key_any_host_will_do(serve: Serve) -> None:
    async with serve(api_key="secret") as service:
        headers = {"Host": "any.example", "X-Moondream-Auth": "secret"}
        assert (await service.http.get(FINETUNES, headers=headers)).status_code == 200


# --- paths and methods


@pytest.mark.parametrize(
    "path", ["/v1//tuning/finetunes", "//v1/tuning/finetunes/", "/v1/tuning/finetunes///"]
)
async def test_slashes_are_collapsed_without_a_redirect(service: Service, path: str) -> None:
    answer = await service.http.get(f"http://localhost{path}")
    assert answer.status_code == 200


async def test_the_doubled_slash_of_the_sdk(service: Service) -> None:
    answer = await service.http.post("http://localhost/v1//query", json={"question": "?"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("POST", "/v1/tuning/nothing"),
        ("GET", f"{FINETUNES}/x/checkpoints/1/upload"),
        ("POST", "/v1/finetune"),
        ("GET", "/v1/%00"),
    ],
)
async def test_unknown_routes(service: Service, method: str, path: str) -> None:
    refusal(await service.http.request(method, path), 404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in JSON_ROUTES if path not in (FINETUNES, JSON_ROUTES[3])),
        ("PUT", FINETUNES),
        ("PATCH", f"{FINETUNES}/x"),
        ("DELETE", "/v1/tuning/train_step"),
        ("POST", "/healthz"),
        ("PUT", "/v1/batch"),
        ("PATCH", "/v1/batch/x"),
    ],
)
async def test_wrong_methods(service: Service, method: str, path: str) -> None:
    answer = await service.http.request(method, path)
    refusal(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


# --- bodies


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=["empty", "open", "list", "null", "string", "number", "nan", "infinity", "bom", "latin",
         "surrogate", "digits", "depth"],
)  # fmt: skip
async def test_what_is_no_json_object(service: Service, path: str, content: bytes) -> None:
    answer = await service.http.post(path, content=content)
    refusal(answer, 422 if path.startswith("/v1/tuning") else 400, "invalid_json")


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize("content", [b'{"x": {"y": [1e999]}}', b'{"x": [{"y": "a\\u0000b"}]}'])
async def test_what_no_typed_field_would_see(service: Service, path: str, content: bytes) -> None:
    answer = await service.http.post(path, content=content)
    body = refusal(answer, 422 if path.startswith("/v1/tuning") else 400, "validation_error")
    assert body["detail"][0]["loc"][:2] == ["body", "x"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_the_content_type_does_not_matter(service: Service, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await service.http.post(FINETUNES, content=json.dumps(CREATE), headers=headers)
    assert answer.status_code == 200


async def test_chunked_bodies_are_read(service: Service) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in json.dumps(CREATE).encode():
            yield bytes([byte])

    assert (await service.http.post(FINETUNES, content=chunks())).status_code == 200


async def test_of_duplicate_keys_the_last_one_holds(service: Service) -> None:
    await service.http.post(FINETUNES, content=b'{"name": "x", "name": "y", "rank": 8}')
    assert (await service.get(FINETUNES)).json()["finetunes"][0]["name"] == "y"


async def test_refusals_never_send_the_input_back(service: Service) -> None:
    finetune_id = await service.create()
    secret = "SECRET" * 10
    for body in (
        {"finetune_id": finetune_id, "request": make_request(image_url=secret)},
        {"finetune_id": finetune_id, "request": {"skill": secret}},
        {"finetune_id": finetune_id, "request": make_request(), "num_rollouts": secret},
        {"finetune_id": secret, "request": make_request()},
    ):
        answer = await service.post("/v1/tuning/rollouts", body)
        assert answer.status_code in (404, 422)
        assert "SECRET" not in answer.text


async def test_at_most_20_ignored_fields_are_named(service: Service) -> None:
    answer = await service.post(FINETUNES, {**CREATE, **{f"x{i}": 1 for i in range(30)}})
    assert answer.headers["x-ignored-fields"].count(",") == 19
    plain = await service.post(FINETUNES, CREATE)
    assert "x-ignored-fields" not in plain.headers


# --- limits and draining, with a hand-made server loop


class Upload:
    """An ASGI exchange that shows when the answer began relative to the body."""

    def __init__(self, num_chunks: int, chunk_bytes: int):
        self.chunks = [b" " * chunk_bytes] * num_chunks
        self.num_sent = 0
        self.num_sent_at_answer: int | None = None
        self.messages: list[Any] = []

    async def receive(self) -> Any:
        if self.num_sent == len(self.chunks):
            return {"type": "http.disconnect"}
        self.num_sent += 1
        more = self.num_sent < len(self.chunks)
        return {"type": "http.request", "body": self.chunks[self.num_sent - 1], "more_body": more}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.num_sent_at_answer = self.num_sent
        self.messages.append(message)

    async def run(
        self, service: Service, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in {"Host": "localhost", **(headers or {})}.items()
            ],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 80),
        }
        await service.app(scope, self.receive, self.send)
        body = b"".join(m.get("body", b"") for m in self.messages[1:])
        return self.messages[0]["status"], json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    ("path", "options", "headers", "expected"),
    [
        (FINETUNES, {"api_key": "secret"}, {}, (401, "invalid_api_key")),
        ("/v1/nothing", {}, {}, (404, "route_not_found")),
        ("/healthz", {}, {}, (405, "method_not_allowed")),
        ("/v1/segment", {}, {}, (400, "invalid_json")),
        (FINETUNES, {}, {"Host": "evil.example"}, (403, "forbidden")),
        (FINETUNES, {"max_body_bytes": 2048}, {}, (413, "body_too_large")),
        (
            FINETUNES,
            {"max_body_bytes": 2048},
            {"Content-Length": "10000"},
            (413, "body_too_large"),
        ),
        ("/v1/tuning/train_step", {"max_train_body_bytes": 2048}, {}, (413, "body_too_large")),
        ("/v1/query", {"max_body_bytes": 2048}, {}, (413, "body_too_large")),
        (f"{FINETUNES}/x/checkpoints/save", {}, {}, (404, "finetune_not_found")),
    ],
)
async def test_the_body_is_read_to_its_end_before_any_refusal(
    serve: Serve, path: str, options: Any, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    async with serve(**options) as service:
        upload = Upload(num_chunks=10, chunk_bytes=1000)
        assert await upload.run(service, path, headers) == expected
        assert upload.num_sent_at_answer == 10


async def test_draining_has_an_end(serve: Serve) -> None:
    async with serve(api_key="secret", max_drain_bytes=3000) as service:
        upload = Upload(num_chunks=1000, chunk_bytes=1000)
        assert await upload.run(service, FINETUNES) == (401, "invalid_api_key")
        assert upload.num_sent_at_answer == 3


async def test_train_steps_have_a_limit_of_their_own(serve: Serve) -> None:
    async with serve(max_body_bytes=1024) as service:
        finetune_id = await service.create()
        assert (await service.train(finetune_id, padding=" " * 5000)).status_code == 200
        refusal(await service.roll(finetune_id, padding=" " * 5000), 413, "body_too_large")


# --- request ids, crashes


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1", True), ("~!", True), ("x" * 128, True), ("x" * 129, False), ("a b", False),
     ("", False), ("\xe9", False)],
)  # fmt: skip
async def test_request_ids(service: Service, sent: str, kept: bool) -> None:
    answer = await service.http.get("/healthz", headers=_latin({"X-Request-Id": sent}))
    request_id = answer.headers["x-request-id"]
    assert (request_id == sent) is kept
    if not kept:
        assert len(request_id) == 26


async def test_a_crash_is_our_error_body_and_says_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(service.app.state.services.finetunes, "list", crash)
    answer = await service.get(FINETUNES, headers={"X-Request-Id": "abc"})
    body = refusal(answer, 500, "internal_error")
    assert body["error"]["type"] == "server_error"
    assert "abc" in body["message"]
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "authentication_error"), (403, "permission_error"), (404, "not_found_error")],
)
async def test_the_type_follows_the_status(serve: Serve, status: int, kind: str) -> None:
    paths = {401: FINETUNES, 403: FINETUNES, 404: "/x"}
    options: dict[str, Any] = {"api_key": "secret"} if status == 401 else {}
    async with serve(**options) as service:
        headers = {"Host": "evil.example"} if status == 403 else {}
        answer = await service.get(paths[status], headers=headers)
        assert answer.json()["error"]["type"] == kind


# --- health, documents, browsers


async def test_readiness_tells_the_reason(service: Service) -> None:
    assert (await service.get("/readyz")).json() == {"status": "ready", "model": "tiny"}
    for state, code in (("starting", "starting"), ("unavailable", "worker_unavailable")):
        service.engine.state = state  # type: ignore[assignment]
        answer = await service.get("/readyz")
        assert "Told to be so." in refusal(answer, 503, code)["message"]
        assert int(answer.headers["retry-after"]) > 0
        assert (await service.get("/healthz")).status_code == 200


@pytest.mark.database("sqlite")
async def test_readiness_knows_the_database(service: Service) -> None:
    (service.data_dir / "moontune.db").rename(service.data_dir / "gone")
    service.app.state.services.database.close()
    service.data_dir.joinpath("moontune.db").mkdir()
    refusal(await service.get("/readyz"), 503, "overloaded")


async def test_a_draining_service_is_not_ready(service: Service) -> None:
    service.dispatcher.drain()
    refusal(await service.get("/readyz"), 503, "overloaded")


async def test_the_openapi_document_names_every_route_and_resolves(service: Service) -> None:
    document = (await service.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        FINETUNES,
        f"{FINETUNES}/{{finetune_id}}",
        f"{FINETUNES}/{{finetune_id}}/metrics",
        f"{FINETUNES}/{{finetune_id}}/checkpoints",
        f"{FINETUNES}/{{finetune_id}}/checkpoints/save",
        f"{FINETUNES}/{{finetune_id}}/checkpoints/{{step}}",
        f"{FINETUNES}/{{finetune_id}}/checkpoints/{{step}}/download",
        "/v1/tuning/adapters",
        "/v1/tuning/adapters/{adapter_id}",
        "/v1/tuning/adapters/{adapter_id}/checkpoint",
        "/v1/tuning/adapters/{adapter_id}/checkpoints",
        "/v1/tuning/adapters/{adapter_id}/checkpoints/{checkpoint_id}",
        "/v1/files/{token}",
        "/v1/tuning/rollouts",
        "/v1/tuning/train_step",
        "/v1/tuning/usage",
        "/v1/tuning/refusals",
        "/v1/query",
        "/v1/caption",
        "/v1/point",
        "/v1/detect",
        "/v1/segment",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/batch",
        "/v1/batch/{file_id}",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in _references(item)]
    if isinstance(value, list):
        return [ref for item in value for ref in _references(item)]
    return []


async def test_browsers_may_call_from_configured_origins_only(serve: Serve) -> None:
    async with serve(cors_origins=("https://a.example",)) as service:
        headers = {"Origin": "https://a.example"}
        answer = await service.get(FINETUNES, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
    async with serve() as service:
        answer = await service.get(FINETUNES, headers=headers)
        assert "access-control-allow-origin" not in answer.headers


async def test_the_app_starts_and_stops_its_engine(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine):
        assert engine.is_started
    assert not engine.is_started


async def test_a_database_that_was_not_migrated_is_refused(tmp_path: Any) -> None:
    app = create_app(
        ServerConfig(data_dir=tmp_path), engine=FakeEngine(), image_decoder=FakeImageDecoder()
    )
    with pytest.raises(Exception, match="moontune serve"):
        async with app.router.lifespan_context(app):
            pass
