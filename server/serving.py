"""From a configuration to a running service: port, lock, schema, then HTTP and the worker.

On the first SIGINT or SIGTERM nothing new is accepted, what runs is finished, what waits is
answered with 503, and the worker ends; a second signal ends everything at once.
"""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from contract import faults
from contract.errors import WorkerUnavailable
from server.app import close_services, create_app
from server.config import ServerConfig
from server.data_lock import DataDirectoryError, lock_data_directory
from server.db import api_keys, migrate
from server.db.connection import Database
from server.db.meta import next_epoch
from server.db.ownership import NotOwnerError, own_database
from server.domain.engine_status import EngineStatus
from server.domain.errors import ServiceError
from server.engine_client import EngineClient, WorkerRefusedError
from server.http.listener import let_nobody_in, num_waiting_at
from server.http.protocol import DeliveryProtocol
from server.http.slow_clients import guarded
from server.images.decoder import ImageDecoder
from server.logs import configure_logs
from server.memory import give_large_blocks_back
from server.ready import Announce, banner, base_url
from server.restarts import RestartSchedule
from server.services.belonging import list_strangers
from server.services.container import Services
from server.silence import SilenceLimits
from server.worker_process import WorkerLaunch, trainer_command

_log = structlog.get_logger("server.serving")

BACKLOG = 2048
LAST_ARRIVAL_SECONDS = 0.1
"""So long after the last connection came, the port is closed: handshakes under way end meanwhile,
and what was accepted has reached its protocol."""

MAX_ARRIVAL_SECONDS = 5.0
LOOK_SECONDS = 0.005
LAST_SECONDS = 1.5
"""After the worker has gone, how long its calls may take to be answered with 503."""

EXIT_AT_ONCE = 130
SWITCH_SECONDS = 0.0005
"""How long a thread that parses keeps the event loop waiting for the interpreter, a tenth of
Python's own choice: each answer needs it several times, among several such threads."""

OTHERS_SEE_NOTHING = 0o077
"""The mask of all that this process and its children create: prompts, keys and weights."""


class CannotServeError(Exception):
    """The service cannot start; the message is a sentence for people."""


def serve(
    config: ServerConfig,
    *,
    launch: WorkerLaunch | None = None,
    restarts: RestartSchedule | None = None,
    announce: Announce = banner,
) -> int:
    """Serve until told to stop; return the exit status: 0 after an orderly stop, 1 with a reason.

    stdout gets one line, when the model answers; progress and the reason go to stderr.

    Args:
        launch: How to start the worker; absent: the trainer with the configured model.
        restarts: When to start it again; absent: as in production.
        announce: What to say when the model answers.
    """
    configure_logs(config.log_level)
    _allow_many_files()
    _leave_no_core()
    give_large_blocks_back()
    sys.setswitchinterval(SWITCH_SECONDS)
    faults.arm(config.fault)
    os.umask(OTHERS_SEE_NOTHING)
    try:
        with (
            _bind(config.host, config.port) as listener,
            lock_data_directory(config.data_dir, url=_url(config, listener)),
            own_database(config, on_loss=_leave),
        ):
            _upgrade(config)
            _require_guard(config)
            launch = launch or _trainer_launch(config)
            asyncio.run(_run(config, listener, launch, restarts, announce))
    except KeyboardInterrupt:  # before there was a loop to hear it
        return EXIT_AT_ONCE
    except (CannotServeError, DataDirectoryError, NotOwnerError, WorkerRefusedError) as error:
        _say(str(error))
        return 1
    return 0


async def _run(
    config: ServerConfig,
    listener: socket.socket,
    launch: WorkerLaunch,
    restarts: RestartSchedule | None,
    announce: Announce,
) -> None:
    await _Service(config, listener, launch, restarts, announce).run()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would end us by the signal they caught, and with
    an end that breaks nothing off."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody else in, and close the port when all who were on their way are inside.

        A connection in its queue may have brought its whole body; closed unread it would be reset,
        and the SDK does not send again after that.
        """
        listeners = sockets or []
        for listener in listeners:
            let_nobody_in(listener)
        loop = asyncio.get_running_loop()
        started = last_seen = loop.time()
        while loop.time() < min(last_seen + LAST_ARRIVAL_SECONDS, started + MAX_ARRIVAL_SECONDS):
            await asyncio.sleep(LOOK_SECONDS)  # the loop accepts meanwhile
            if any(map(num_waiting_at, listeners)):
                last_seen = loop.time()
        await super().shutdown(sockets)


class _Service:
    """What runs while we serve."""

    def __init__(
        self,
        config: ServerConfig,
        listener: socket.socket,
        launch: WorkerLaunch,
        restarts: RestartSchedule | None,
        announce: Announce,
    ) -> None:
        self._config = config
        self._listener = listener
        self._announcement = announce
        self._engine = EngineClient(
            launch,
            restarts=restarts,
            next_epoch=functools.partial(_next_epoch, config),
            on_status=self._show_progress,
            limits=SilenceLimits(
                starting=config.worker_start_seconds, ready=config.worker_silence_seconds
            ),
        )
        self._decoder = ImageDecoder(
            num_processes=config.num_image_processes,
            max_bytes=config.max_image_bytes,
            max_pixels=config.max_image_pixels,
        )
        app = create_app(config, engine=self._engine, image_decoder=self._decoder)
        self._services: Services = app.state.services
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=guarded(DeliveryProtocol, self._services.admission.connections),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # server.api.own_url decides whom to believe
            )
        )
        self._is_announced = False
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until a signal, or until the worker says that it can never work.

        Raises:
            WorkerRefusedError: Why it never can.
            CannotServeError: Start-up failed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        await self._decoder.start()
        announcing = asyncio.create_task(self._announce())
        try:
            await self._server.serve(sockets=[self._listener])
        except SystemExit as error:  # uvicorn's way to say that our own start-up raised
            raise CannotServeError("The service could not start; see the log above.") from error
        finally:
            await self._engine.stop()
            await close_services(self._services)  # uvicorn leaves that out when it was in a hurry
            await self._decoder.stop()
        await announcing

    async def _announce(self) -> None:
        """Print the ready line when the model answers; end the service if it never will."""
        try:
            model = await self._engine.wait_until_ready()
        except WorkerUnavailable:
            return  # We were stopped before.
        except WorkerRefusedError:
            self._stop()
            raise
        with suppress(ServiceError):  # a busy database; the refusals say it, too
            for sentence in await self._services.database.read(list_strangers, model):
                _say(sentence)
        self._is_announced = True
        said = self._announcement(
            self._config,
            _url(self._config, self._listener),
            model,
            is_open=await self._services.keys.is_open(),
        )
        for line in said.advice:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 -- for who started us
        print(said.result, flush=True)  # noqa: T201 -- stdout is for this line, and it is the last

    def _show_progress(self, status: EngineStatus) -> None:
        """Say why one has to wait; a refusal is said once, at the end."""
        is_over = self._is_announced or self._stopping is not None
        if status.state != "ready" and not is_over and self._engine.refusal is None:
            _say(status.detail)

    def _on_signal(self) -> None:
        if self._stopping is not None:
            os._exit(EXIT_AT_ONCE)  # The worker and the decoders see our sockets close.
        self._stop()

    def _stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop_in_order())

    async def _stop_in_order(self) -> None:
        """Let uvicorn stop accepting, and see to it that what it waits for comes to an end."""
        self._server.should_exit = True
        dispatcher = self._services.dispatcher
        self._services.batches.runner.give_up()
        await dispatcher.close(grace_seconds=self._config.shutdown_grace_seconds)
        await self._engine.stop(at_once=dispatcher.num_running > 0)
        await asyncio.sleep(LAST_SECONDS)
        self._server.force_exit = True


def _leave(reason: str) -> None:
    """Somebody else serves our database: stop in order, from whatever thread noticed it."""
    _say(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def _bind(host: str, port: int) -> socket.socket:
    """Take the port at once, so that early callers wait in its queue instead of being refused.

    Raises:
        CannotServeError: The address is taken, forbidden or not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CannotServeError(f"The host {host} is not known: {error.strerror}.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotServeError(
            f"The address {host} port {port} cannot be used: {error.strerror};"
            " choose another --port (0 takes a free one) or --host."
        ) from error
    return listener


def _url(config: ServerConfig, listener: socket.socket) -> str:
    """Where this machine reaches us; the port is the one that we got."""
    return base_url(config.host, listener.getsockname()[1])


def _allow_many_files() -> None:
    """Every connection and every large body is an open file; the soft limit is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_no_core() -> None:
    """A crash must not leave our memory on the disk: it holds the key, pictures and prompts.

    Only the soft limit, so that who looks for a fault can raise it (`prlimit`); children inherit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _upgrade(config: ServerConfig) -> None:
    """Bring the database up to date.

    Raises:
        CannotServeError: It cannot be opened, copied or upgraded, or a newer release made it.
    """
    try:
        copy = migrate.upgrade(config)
        if copy is not None:
            num_bytes = copy.stat().st_size
            _log.info("database_copied_aside", path=str(copy), num_bytes=num_bytes)
    except migrate.SchemaError as error:
        raise CannotServeError(str(error)) from error
    except (SQLAlchemyError, ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CannotServeError(
            f"The database cannot be opened: {reason}. `moontune doctor` says what to do."
        ) from error


def _require_guard(config: ServerConfig) -> None:
    """See to it that who can reach us from elsewhere needs a key.

    Raises:
        CannotServeError: There is none, and nobody said that this is meant.
    """
    if config.api_key is not None or config.may_be_open:
        return
    database = Database(config.resolved_database_url)
    try:
        num_made, _ = database.read_blocking(api_keys.stamp)
    finally:
        database.close()
    if not num_made:
        reach = f"The host {config.host} can be reached from other machines"
        if config.is_loopback:
            reach = "MOONTUNE_PUBLIC_URL leads others here"
        raise CannotServeError(
            f"{reach}, and there is no key: make one with `moontune keys create`, set"
            " MOONTUNE_API_KEY, or set MOONTUNE_ALLOW_OPEN=true to let everyone in."
        )


def _trainer_launch(config: ServerConfig) -> WorkerLaunch:
    return WorkerLaunch(
        command=trainer_command(config), log_path=config.data_dir / "logs" / "worker.log"
    )


def _next_epoch(config: ServerConfig) -> int:
    """Blocks for a millisecond, at each start of a worker."""
    database = Database(config.resolved_database_url)
    try:
        return database.write_blocking(next_epoch)
    finally:
        database.close()


def _say(text: str) -> None:
    print(f"moontune: {text}", file=sys.stderr, flush=True)  # noqa: T201 -- for who started us
