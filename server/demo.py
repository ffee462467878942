"""`moontune demo`: a server with the tiny model, and the bundled quickstart run against it."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from server.children import module_command, module_environment
from server.ready import read_url
from server.resources import find

INTERRUPTED = 130
STOP_SECONDS = 30.0


class DemoError(Exception):
    """The demo cannot run; the message is a sentence for people."""


def run_demo(*, data_dir: Path, port: int, steps: int = 40, as_json: bool = False) -> int:
    """Run the quickstart; return its exit status, or 130 when interrupted.

    Args:
        as_json: Print one JSON object in the end, and what the script says on stderr.

    Raises:
        DemoError: The SDK is not installed, or the server did not start (it has said why).
    """
    if importlib.util.find_spec("moondream") is None:
        raise DemoError(
            "The demo uses the official SDK: pip install --no-deps moondream==2.6.1 (its optional"
            " local engine is not needed, and not free)."
        )
    signal.signal(signal.SIGTERM, _as_interrupt)
    script = find("examples") / "quickstart.py"
    try:
        with _server(data_dir, port) as url:
            command = [sys.executable, "-u", str(script), "--endpoint", url]
            command += ["--steps", str(steps)]
            out = sys.stderr if as_json else None
            status = subprocess.run(command, stdout=out, check=False).returncode
    except KeyboardInterrupt:
        return INTERRUPTED
    if as_json:
        result = {"is_learned": status == 0, "data_dir": str(data_dir), "port": urlsplit(url).port}
        _say(json.dumps(result, indent=1))
        return status
    _say(
        f"The demo's server has stopped. Bring it back, with what it learned, by\n\n"
        f"  moontune serve --model tiny --data-dir {data_dir} --port {urlsplit(url).port}\n"
    )
    return status


@contextmanager
def _server(data_dir: Path, port: int) -> Generator[str]:
    """Run a server, give its URL, and stop it in order whatever happens.

    Its own process group keeps Ctrl-C from it: we stop it, after the script has ended.
    """
    options = ("--model", "tiny", "--data-dir", str(data_dir), "--port", str(port), "--seed", "0")
    server = subprocess.Popen(
        module_command("server", "--host", "127.0.0.1", *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**module_environment(), "MOONTUNE_LOG_LEVEL": "warning"},
        process_group=0,
        text=True,
    )
    with server:
        try:
            assert server.stdout is not None, "we asked for a pipe"
            for line in server.stdout:
                url = read_url(line)
                if url is not None:
                    yield url
                    return
            raise DemoError("The server did not start.")
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 -- the demo talks to a person


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
