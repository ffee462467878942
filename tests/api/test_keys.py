"""Who may call, and what: keys, scopes, open mode, revocation; http-api.md 2.3."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from server.api.rights import RIGHTS, Right
from server.cli import app as command_line
from server.domain.caller import Scope
from server.domain.keys import draw_key
from server.services import keyring
from tests.accounts import calling_with, flushed, make_key, revoke, ring_by_hand, rows, services_of
from tests.api.conftest import Serve
from tests.factories import make_request
from tests.service import Service, refusal, until

ONE_DATABASE_IS_ENOUGH = True  # This is about HTTP; the other modules use keys on both.

pytestmark = pytest.mark.anyio

FINETUNES = "/v1/tuning/finetunes"
PUBLIC = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/files/{token}")}


def operations(service: Service) -> list[tuple[str, str]]:
    """Every call that the OpenAPI document names."""
    paths: dict[str, Any] = service.app.openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def filled(path: str) -> str:
    return path.replace("{finetune_id}", "x").replace("{step}", "1").replace("{token}", "x")


@pytest.mark.database("sqlite")
async def test_every_route_says_which_right_it_needs(service: Service) -> None:
    assert set(RIGHTS) == set(operations(service))
    public = {route for route, right in RIGHTS.items() if right is Right.PUBLIC}
    assert public == PUBLIC
    assert [route for route, right in RIGHTS.items() if right is Right.OPERATOR] == [
        ("GET", "/metrics")
    ]


@pytest.mark.parametrize(
    "key",
    ["", " ", "wrong", "mt_", "x" * 10_000, "sch\xe4ssel", draw_key(), "secret\x7f", "Secret"],
    ids=["none", "blank", "wrong", "prefix", "10 kB", "not ascii", "shaped", "longer", "case"],
)
async def test_no_route_lets_a_bad_key_in_and_nothing_is_kept_of_it(serve: Serve, key: str) -> None:
    async with serve(api_key="secret") as service:
        await make_key(service, "other")
        parser = service.app.state.body_parser
        before = [await rows(service, table) for table in ("usage_hours", "refusals", "accounts")]
        raw = [(b"X-Moondream-Auth", key.encode("latin-1"))] if key else []
        async with calling_with(service, "", peer="10.0.0.1") as from_elsewhere:
            for method, path in operations(service):
                if (method, path) in PUBLIC:
                    continue
                answer = await from_elsewhere.http.request(
                    method, filled(path), content=b"{no json", headers=raw
                )
                if path == "/metrics" and not key.strip():
                    refusal(answer, 403, "forbidden")
                    continue
                refusal(answer, 401, "invalid_api_key")
                assert key.strip() not in answer.text or key in ("", " ", "mt_", "wrong")
        await flushed(service)
        after = [await rows(service, table) for table in ("usage_hours", "refusals", "accounts")]
        assert after == before
        assert parser.memory.used == 0
        assert service.engine.calls == []


async def test_keys_of_the_command_line_open_a_running_service(service: Service) -> None:
    """Made and revoked by another process, known within two seconds without a restart."""
    data = ["--data-dir", str(service.data_dir)]
    if service.config.database_url is not None:
        pytest.skip("the same; the commands have a test of their own")
    assert (await service.get(FINETUNES)).status_code == 200  # open
    run = CliRunner().invoke
    made = json.loads(run(command_line, ["keys", "create", "--name", "a", "--json", *data]).stdout)
    key = {"Authorization": f"Bearer {made['key']}"}
    await _within_two_seconds(service, {}, 401)
    assert (await service.get(FINETUNES, headers=key)).status_code == 200
    await flushed(service)
    (listed,) = json.loads(run(command_line, ["keys", "list", "--json", *data]).stdout)["keys"]
    assert listed["last_used_at_ms"] >= listed["created_at_ms"]
    assert "key" not in listed
    assert run(command_line, ["keys", "revoke", made["prefix"], *data]).exit_code == 0
    await _within_two_seconds(service, key, 401)
    refusal(await service.get(FINETUNES), 401, "invalid_api_key")  # revoking does not open again


async def _within_two_seconds(service: Service, headers: dict[str, str], status: int) -> None:
    began = time.monotonic()
    while (await service.get(FINETUNES, headers=headers)).status_code != status:
        assert time.monotonic() - began < 2
        await asyncio.sleep(0.05)


async def test_the_configured_key_is_a_full_one_of_the_default_account(serve: Serve) -> None:
    async with serve() as service:
        finetune_id = await service.create()
    async with serve(api_key="secret") as service, calling_with(service, "secret") as own:
        assert (await own.get(f"{FINETUNES}/{finetune_id}")).status_code == 200
        async with calling_with(service, await make_key(service)) as also:
            assert (await also.get(f"{FINETUNES}/{finetune_id}")).status_code == 200
            assert (await also.delete(f"{FINETUNES}/{finetune_id}")).status_code == 200
        refusal(await own.get(f"{FINETUNES}/{finetune_id}"), 404, "finetune_not_found")


async def test_a_host_that_is_not_ours_is_refused_only_while_open(service: Service) -> None:
    there = {"Host": "tuner.lan"}
    refusal(await service.get(FINETUNES, headers=there), 403, "forbidden")
    key = await make_key(service)
    answer = await service.get(FINETUNES, headers={**there, "X-Moondream-Auth": key})
    assert answer.status_code == 200


async def test_beyond_the_loopback_nobody_is_let_in_by_an_empty_database(serve: Serve) -> None:
    async with serve(host="0.0.0.0") as service:
        refusal(await service.get(FINETUNES), 401, "invalid_api_key")
        async with calling_with(service, await make_key(service)) as caller:
            assert (await caller.get(FINETUNES)).status_code == 200


async def test_a_revoked_key_lets_what_it_began_come_to_its_end(service: Service) -> None:
    key = await make_key(service)
    async with calling_with(service, key) as caller:
        finetune_id = await caller.create()
        service.engine.gate.clear()
        rolling = asyncio.create_task(caller.roll(finetune_id))
        await until(lambda: service.engine.num_running)
        await revoke(service, key[:9])
        await services_of(service).keys.open()
        refusal(await caller.get(FINETUNES), 401, "invalid_api_key")
        service.engine.gate.set()
        assert (await rolling).status_code == 200


async def test_two_keys_of_an_account_see_the_same(service: Service) -> None:
    keys = [await make_key(service, "team") for _ in range(2)]
    async with calling_with(service, keys[0]) as one, calling_with(service, keys[1]) as two:
        made = await asyncio.gather(*(who.create("same") for who in (one, two) for _ in range(3)))
        assert len(set(made)) == 1
        steps = await asyncio.gather(*(who.train(made[0], lr=lr) for who, lr in
                                       ((one, 0.1), (two, 0.2))))  # fmt: skip
        assert sorted(step.json()["step"] for step in steps) == [1, 2]
        await one.save(made[0])
        listed = [await who.get(f"{FINETUNES}/{made[0]}/checkpoints") for who in (one, two)]
        assert listed[0].json() == listed[1].json()


@pytest.mark.parametrize("scope", [Scope.READ, Scope.INFERENCE])
@pytest.mark.database("sqlite")
async def test_a_scope_covers_its_calls_and_no_other(service: Service, scope: Scope) -> None:
    full, key = await make_key(service), await make_key(service, scope=scope)
    async with calling_with(service, full) as owner:
        finetune_id = await owner.create()
        assert (await owner.train(finetune_id)).status_code == 200
        await owner.save(finetune_id)
    before = len(service.engine.calls)
    seen: Counter[int] = Counter()
    async with calling_with(service, key, peer="10.0.0.1") as caller:
        for (method, path), right in RIGHTS.items():
            if right is Right.PUBLIC:
                continue
            there = path.replace("{finetune_id}", finetune_id).replace("{step}", "1")
            body = make_request("query") if right is Right.ANSWER else None
            answer = await caller.http.request(method, there, json=body)
            is_covered = isinstance(right.value, tuple) and scope in right.value
            if is_covered:
                assert answer.status_code not in (401, 403), (path, answer.text)
            else:
                assert scope.value in refusal(answer, 403, "forbidden")["message"] or (
                    path == "/metrics"
                )
            seen[answer.status_code] += 1
    assert seen[403] >= 8
    assert seen[200] >= 1
    verbs = service.engine.verbs()[before:]
    assert set(verbs) <= ({"answer"} if scope is Scope.INFERENCE else {"export_checkpoint"})


async def test_a_refusal_comes_after_the_body_and_costs_no_memory(service: Service) -> None:
    """The scope is judged from the headers: nothing of the body is looked at."""
    key = await make_key(service, scope=Scope.READ)
    async with calling_with(service, key) as caller:
        answer = await caller.http.post("/v1/tuning/train_step", content=b"{" + b"x" * 100_000)
        refusal(answer, 403, "forbidden")


async def test_keys_are_known_while_the_database_does_not_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while; then nobody is let in, and when it answers again everybody is."""
    ring, now = ring_by_hand(service, monkeypatch)
    key = await make_key(service)
    reads = Counter[str]()
    read = ring._database.read

    async def count(work: Any, *args: Any) -> Any:
        reads["read"] += 1
        return await read(work, *args)

    async def fail(*_: Any) -> Any:
        raise keyring.OverloadedError("busy")

    monkeypatch.setattr(ring._database, "read", count)
    for _ in range(20):
        assert (await ring.caller_of(key)).account_id == "default"
    assert not reads  # what is fresh is not read again, whoever asks
    for _ in range(3):
        with pytest.raises(keyring.InvalidApiKeyError):
            await ring.caller_of(draw_key())
    assert not reads
    monkeypatch.setattr(ring._database, "read", fail)
    now[0] += keyring.TRUSTED_SECONDS - 1
    assert (await ring.caller_of(key)).account_id == "default"
    now[0] += 2
    with pytest.raises(keyring.OverloadedError):
        await ring.caller_of(key)
    monkeypatch.setattr(ring._database, "read", count)
    now[0] += 1
    assert (await ring.caller_of(key)).account_id == "default"


@pytest.mark.database("sqlite")
async def test_nowhere_is_a_key_written_down(serve: Serve) -> None:
    """S10: not in logs at DEBUG, the database, metrics, or answers; only its hash is kept."""
    out, err = io.StringIO(), io.StringIO()
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(10))
    try:
        with redirect_stdout(out), redirect_stderr(err):
            async with serve(api_key="CANARY-OWN") as service:
                key, texts = await make_key(service), []
                for sent in (key, "CANARY-OWN", key + "x", "CANARY-WRONG"):
                    for headers in ({"X-Moondream-Auth": sent},
                                    {"Authorization": f"Bearer {sent}"}):  # fmt: skip
                        for path in (FINETUNES, f"{FINETUNES}/{'0' * 26}", "/metrics"):
                            texts.append((await service.get(path, headers=headers)).text)
                await flushed(service)
                stored = b"".join(
                    path.read_bytes() for path in service.data_dir.rglob("*") if path.is_file()
                )
    finally:
        structlog.configure(**before)
    everything = "".join([*texts, out.getvalue(), err.getvalue()])
    assert "request" in everything
    for secret in (key, key[10:], "CANARY"):
        assert secret not in everything
        assert secret.encode() not in stored


def test_the_commands_say_no_by_their_exit_status(tmp_path: Any) -> None:
    run = CliRunner().invoke
    data = ["--data-dir", str(tmp_path / "data")]
    assert run(command_line, ["keys", "list", *data]).exit_code == 2  # nothing was ever there
    assert run(command_line, ["errors", *data]).exit_code == 2
    assert run(command_line, ["keys", "create", *data]).exit_code == 2  # no name
    made = run(command_line, ["keys", "create", "--name", "one", *data])
    assert made.exit_code == 0
    assert made.stdout.startswith("mt_")
    assert made.stdout.count("\n") == 1  # for scripts: nothing but the key
    assert oct((tmp_path / "data" / "moontune.db").stat().st_mode)[-3:] == "600"
    bad = run(command_line, ["keys", "create", "--name", "x", "--account", "No Such", *data])
    assert (bad.exit_code, bad.stderr.count("\n")) == (1, 1)
    for name in ("two", "two"):
        run(command_line, ["keys", "create", "--name", name, "--scope", "read", *data])
    assert (
        run(command_line, ["keys", "create", "--name", "x", "--scope", "all", *data]).exit_code == 2
    )
    assert run(command_line, ["keys", "revoke", "two", *data]).exit_code == 1  # which one?
    assert run(command_line, ["keys", "revoke", "nobody", *data]).exit_code == 1
    assert run(command_line, ["keys", "revoke", "one", *data]).exit_code == 0
    assert run(command_line, ["keys", "revoke", "one", *data]).exit_code == 0  # again
    listed = json.loads(run(command_line, ["keys", "list", "--json", *data]).stdout)["keys"]
    assert [key["name"] for key in listed] == ["two", "two"]
    listed = json.loads(run(command_line, ["keys", "list", "--all", "--json", *data]).stdout)
    assert len(listed["keys"]) == 3
    assert run(command_line, ["usage", "--by", "week", *data]).exit_code == 2
    assert run(command_line, ["errors", "--finetune", "no id", *data]).exit_code == 2
