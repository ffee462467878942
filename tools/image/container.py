"""A process of a built image, with what compose.yaml allows a container: little.

Its root is read-only, /tmp is empty, volumes are bound, and it is process 1 of a namespace of its
own. Its user is the image's, it has no capabilities and can get none.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tools.image.build import NAMES, Image, run

TMP_OPTIONS = "mode=1777,size=1g,nosuid,nodev,noexec"
_CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
_PRIVATE = ("unshare", "--pid", "--fork", "--mount")
_POWERLESS = ("setpriv", "--clear-groups", "--no-new-privs", "--bounding-set=-all")


class Container:
    """The image with its volumes, for commands one after another or beside one another.

    Args:
        volumes: A folder to keep them in; a volume that is new is like the image's folder.
        mounts: Paths of the image that are volumes.
        environment: Besides the image's.
    """

    def __init__(
        self, image: Image, *, volumes: Path, mounts: list[str], environment: Mapping[str, str]
    ) -> None:
        self._image = image
        self._environment = {**image.environment, **environment}
        root = image.root
        for mount in mounts:
            _new_volume(volumes / mount.lstrip("/"), like=root / mount.lstrip("/"))
            run(["mount", "--bind", str(volumes / mount.lstrip("/")), str(root / mount[1:])])
        run(["mount", "-t", "tmpfs", "-o", TMP_OPTIONS, "tmpfs", str(root / "tmp")])
        run(["mount", "--rbind", "/dev", str(root / "dev")])
        for name in NAMES:
            run(["mount", "--bind", name, str(root / name.lstrip("/"))])
        run(["mount", "-o", "remount,ro", str(root)])

    def entry(self, *words: str) -> list[str]:
        """The argv of the image's entry point."""
        return [*self._image.config["ENTRYPOINT"], *(words or self._image.config["CMD"])]

    def start(self, argv: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start an argv as process 1; what it says goes to a log."""
        with log.open("wb") as out:
            return subprocess.Popen(
                self._command(argv),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def call(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Run an argv to its end, as `docker compose run` does."""
        return subprocess.run(
            self._command(argv),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def beside(
        self, started: subprocess.Popen[bytes], argv: list[str]
    ) -> subprocess.CompletedProcess[str]:
        """Run an argv in the namespaces of a started one, as `docker compose exec` does."""
        inside = ["nsenter", f"--target={first_process(started)}", "--pid", "--mount"]
        return subprocess.run(
            [*inside, *self._in_root(argv)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def stop(self, started: subprocess.Popen[bytes], seconds: float) -> int:
        """Send SIGTERM to process 1, as `docker stop` does; return its exit status."""
        os.kill(first_process(started), signal.SIGTERM)
        return started.wait(seconds)

    def end(self, started: subprocess.Popen[bytes]) -> None:
        """Have it gone, with all that is in its namespace; harmless twice."""
        if started.poll() is None:
            os.kill(first_process(started), signal.SIGKILL)
            started.wait()

    def _command(self, argv: list[str]) -> list[str]:
        proc = self._image.root / "proc"
        script = 'mount -t proc proc "$0" && exec "$@"'
        return [*_PRIVATE, "/bin/sh", "-ec", script, str(proc), *self._in_root(argv)]

    def _in_root(self, argv: list[str]) -> list[str]:
        user, _, group = self._image.user.partition(":")
        inside = 'cd "$0" && exec "$@"'
        return [
            *(_CHROOT, str(self._image.root)),
            *(*_POWERLESS, f"--reuid={user}", f"--regid={group}"),
            *("/bin/sh", "-c", inside, self._image.directory, *argv),
        ]


def first_process(started: subprocess.Popen[bytes]) -> int:
    """The process that is number 1 in its own namespace, by its number here.

    Waits until `unshare` has started it.
    """
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    while started.poll() is None:
        if numbers := children.read_text().split():
            return int(numbers[0])
        time.sleep(0.01)
    raise SystemExit(f"it has ended with {started.returncode}")


def _new_volume(folder: Path, *, like: Path) -> None:
    folder.mkdir(parents=True)
    facts = like.stat()
    os.chown(folder, facts.st_uid, facts.st_gid)
    shutil.copymode(like, folder)
