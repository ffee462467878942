"""A process that has imported everything and forks a life per request: `zygote.py KIND SOCKET`.

Importing torch takes seconds and a fork milliseconds, so hundreds of deaths fit into a minute. What
runs in the fork is the production `main` of its kind, from its arguments on; nothing was loaded,
started or opened for it before but modules. For tests only: cold starts are a bar of their own.

A client connects to the Unix socket and sends one message: file descriptors, and JSON with `argv`,
`environment`, and who else's end is the fork's end. With a `folder` the fork takes over all that a
child has of its parent, such as the environment as a whole; else it has ours and what is added.
The client reads `{"pid": N}` and, when the fork has ended, `{"status": N}` as `os.waitpid` gives
it. When our stdin ends, all forks are killed and we go.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {
    "trainer": {
        "trainer": "tests.chaos.worker",
        "command": "trainer.__main__",
        "micro_checkpoint": "tests.chaos.micro_checkpoint",
    },
    "server": {"serve": "tests.chaos.serve"},
}
"""By kind and the first argument: the module whose `main` a fork runs."""
MAX_MESSAGE_BYTES = 1 << 17
MAX_FDS = 4
KEEP_ORPHANS = "keep-orphans"
"""A file of this name beside the socket: forks whose client was killed go on, as a process would
that no signal reaches."""


@dataclass(eq=False, kw_only=True)
class _Life:
    """A fork, who asked for it, and whose end is its end, too."""

    pid: int
    pidfd: int
    client: socket.socket
    guardian: int | None = None


class Zygote:
    """Forks on demand; one thread, as long as nothing but `select` runs."""

    def __init__(self, path: Path, mains: Mapping[str, Callable[[], int]]):
        self._path = path
        self._mains = mains
        self._selector = selectors.DefaultSelector()
        self._lives: list[_Life] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._leave)

    def run(self) -> None:
        """Serve until stdin ends."""
        while True:
            for key, _ in self._selector.select():
                # Not gone with an earlier one of this round, its number given to another.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def _leave(self) -> None:
        if os.read(sys.stdin.fileno(), 1):
            return
        for life in self._lives:
            with suppress(ProcessLookupError):
                os.kill(life.pid, signal.SIGKILL)
        os._exit(0)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self._selector.register(client, selectors.EVENT_READ, lambda: self._begin(client))

    def _begin(self, client: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(client, MAX_MESSAGE_BYTES, MAX_FDS)
        self._selector.unregister(client)
        if not data:
            client.close()
            return
        wish = json.loads(data)
        pid = os.fork()
        if pid == 0:
            self._become(wish, fds, client)
        for fd in fds:
            os.close(fd)
        life = _Life(pid=pid, pidfd=os.pidfd_open(pid), client=client)
        self._lives.append(life)
        if wish.get("record"):
            _record(Path(wish["record"]), pid, wish["argv"])
        with suppress(OSError):  # it was killed meanwhile, which is seen next
            client.send(json.dumps({"pid": pid}).encode())
        self._selector.register(life.pidfd, selectors.EVENT_READ, lambda: self._reap(life))
        self._selector.register(client, selectors.EVENT_READ, lambda: self._abandon(life))
        if wish.get("guardian"):
            with suppress(ProcessLookupError):
                life.guardian = os.pidfd_open(wish["guardian"])
                self._selector.register(
                    life.guardian, selectors.EVENT_READ, lambda: self._orphan(life)
                )

    def _reap(self, life: _Life) -> None:
        _, status = os.waitpid(life.pid, 0)
        self._lives.remove(life)
        for fd in (life.pidfd, life.guardian):
            self._forget(fd)
        with suppress(OSError):
            life.client.send(json.dumps({"status": status}).encode())
        with suppress(KeyError, ValueError):
            self._selector.unregister(life.client)
        life.client.close()

    def _abandon(self, life: _Life) -> None:
        """The client has gone: so has the process that it stood for."""
        self._selector.unregister(life.client)
        life.client.close()
        if not (self._path.parent / KEEP_ORPHANS).exists():
            os.kill(life.pid, signal.SIGKILL)

    def _orphan(self, life: _Life) -> None:
        """The parent of the process that this one stands for is dead: the kernel would say so."""
        self._forget(life.guardian)
        life.guardian = None
        if not (self._path.parent / KEEP_ORPHANS).exists():
            os.kill(life.pid, signal.SIGTERM)

    def _forget(self, fd: int | None) -> None:
        if fd is not None:
            self._selector.unregister(fd)
            os.close(fd)

    def _become(self, wish: dict[str, Any], fds: list[int], client: socket.socket) -> None:
        """In the fork: never returns."""
        status = 1
        try:
            os.setpgid(0, 0)
            for other in self._lives:
                other.client.close()
                os.close(other.pidfd)
                if other.guardian is not None:
                    os.close(other.guardian)
            client.close()
            self._listener.close()
            self._selector.close()
            stdout, stderr, *rest = fds
            nowhere = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nowhere, 0), (stdout, 1), (stderr, 2)):
                os.dup2(source, target)
                os.close(source)
            argv = [word.replace("{fd}", str(rest[0])) if rest else word for word in wish["argv"]]
            if "folder" in wish:
                _be_child_of(wish)
            os.environ.update(wish["environment"])
            sys.argv = argv
            status = self._mains[argv[0]]()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def _be_child_of(wish: dict[str, Any]) -> None:
    """Take over what a child has of its parent."""
    os.chdir(wish["folder"])
    os.umask(wish["umask"])
    os.environ.clear()
    for number, limits in wish["limits"].items():
        resource.setrlimit(int(number), tuple(limits))


def _record(path: Path, pid: int, argv: list[str]) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"pid": pid, "argv": argv}) + "\n")


def main() -> None:
    """Import what the kind needs, say so, and fork."""
    kind, path = sys.argv[1], Path(sys.argv[2])
    mains = {name: importlib.import_module(module).main for name, module in KINDS[kind].items()}
    gc.collect()
    gc.freeze()  # a collection in the fork then touches no page of ours
    zygote = Zygote(path, mains)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    zygote.run()


if __name__ == "__main__":
    main()
