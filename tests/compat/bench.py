"""What rows are given: live servers, each started when the first row asks for it."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import moondream as md
from moondream.cloud_vl import CloudVL
from moondream.finetune import Finetune

from tests.chaos.forge import Forge
from tests.chaos.service import Service
from tests.compat.node_calls import NodeCalls
from tests.forked import ForkingServer

KEY = "compat-secret"
TIMEOUT_SECONDS = 120.0


class Bench:
    """Servers and clients of one run.

    Args:
        is_full: The uncut counts of scripts.
    """

    def __init__(self, folder: Path, *, is_full: bool):
        self.is_full = is_full
        self.folder = folder
        self._names = count()
        self._stack = ExitStack()

    def count(self, *, cut: int, full: int) -> int:
        """How often."""
        return full if self.is_full else cut

    # --- servers

    @cached_property
    def live(self) -> ForkingServer:
        """`moontune serve --model tiny` in open mode."""
        server = ForkingServer(self.folder / "live", "--seed", "1")
        return self._stack.enter_context(server)

    @cached_property
    def forge(self) -> Forge:
        """Where further servers come from in a fraction of a second."""
        return self._stack.enter_context(Forge(self.folder / "forge"))

    def service(self, name: str, **options: Any) -> Service:
        """A server of its own, not started; closed at the end of the run."""
        service = Service(self.forge, name, options=options)
        return self._stack.enter_context(service)

    @cached_property
    def keyed(self) -> Service:
        """A server that wants a key."""
        service = self.service("keyed", model="tiny", api_key=KEY)
        service.start()
        return service

    @cached_property
    def node(self) -> NodeCalls:
        """The Node SDK's calls, all made at once."""
        return NodeCalls(self.live.endpoint, self.folder)

    # --- clients

    @property
    def v1(self) -> str:
        return f"{self.live.endpoint}/v1"

    @cached_property
    def http(self) -> httpx.Client:
        """Follows no redirect, as the SDK's POST follows none."""
        client = httpx.Client(base_url=self.live.endpoint, timeout=TIMEOUT_SECONDS)
        return self._stack.enter_context(client)

    def new_name(self) -> str:
        return f"compat-{next(self._names)}"

    def finetune(self, rank: int = 8) -> Finetune:
        """A new one."""
        return md.ft("any", name=self.new_name(), rank=rank, endpoint=self.live.tuning)

    def model(self, model: str | None = None) -> CloudVL:
        """Without a key, as open mode allows."""
        client = md.vl(endpoint=self.v1, model=model)
        assert isinstance(client, CloudVL)
        return client

    def curl(self, *arguments: str) -> str:
        """What curl prints."""
        command = ["curl", "--silent", "--show-error", "--max-time", "60", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stack.close()
