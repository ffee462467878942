"""S7: no text and no header makes the server connect to anything or open what is not its own.

A server is started under strace; what it connects to is looked at from its first breath, what it
opens from the moment on when it is ready.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.children import CODE_ROOT, module_environment
from server.ready import read_url
from tests.chaos import raw
from tests.chaos.bench import Bench, Verdict
from tests.factories import make_request, make_sft_group
from tests.hostile.names import names
from tests.hostile.picture_urls import picture_urls
from tests.hostile.surface import Known, picture_routes

ID = "S7"
TITLE = "picture URLs and headers reach neither the network nor other files"

TRACED = "trace=connect,sendto,sendmsg,open,openat,openat2,creat"
LOOPBACK = re.compile(
    r'AF_UNIX|AF_NETLINK|AF_UNSPEC|inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|"::ffff:127\.'
)
OWN = tuple(
    f"{path}/"
    for path in dict.fromkeys(
        (
            CODE_ROOT, Path(sys.prefix), Path(sys.base_prefix), Path(sys.prefix).resolve(),
            Path("/proc/self"), Path("/sys"), Path("/lib"), Path("/lib64"), Path("/usr/lib"),
        )
    )
)  # fmt: skip
OWN_FILES = ("/dev/null", "/dev/urandom", "/etc/ld.so.cache", "/etc/localtime", "/proc/meminfo")
HEADERS = (
    *("Host", "X-Forwarded-Host", "X-Forwarded-For", "Forwarded", "X-Original-URL", "Referer"),
    *("X-Rewrite-URL", "X-Sendfile", "X-Accel-Redirect", "Proxy", "Destination", "Via"),
    *("X-Request-Id", "Idempotency-Key", "Range", "Content-Location", "X-Data-Dir"),
)
VALUES = ("192.0.2.1", "http://192.0.2.1/", "/etc/passwd", "../../etc/passwd", "file:///etc/shadow")


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    if shutil.which("strace") is None:
        verdict.skipped.append("what the server connects to and opens: strace is not installed")
        return verdict
    folder = bench.forge.new_folder("s7")
    folder.mkdir(parents=True)
    trace = folder / "strace.log"
    with _served(bench, folder, trace) as port:
        if port == 0:
            said = (folder / "log").read_text()[-200:]
            verdict.skipped.append(f"what the server connects to and opens: strace failed: {said}")
            return verdict
        ready_at = time.time()
        _ask(port, bench, verdict)
    _judge(trace.read_text(errors="replace"), folder / "data", ready_at, verdict)
    return verdict


@contextmanager
def _served(bench: Bench, folder: Path, trace: Path) -> Iterator[int]:
    """A server of its own under strace, and its port; 0 if strace could not."""
    options = {"MODEL": bench.forge.model, "DATA_DIR": folder / "data", "PORT": 0, "DEVICE": "cpu"}
    environment = {
        **module_environment(),
        "OMP_NUM_THREADS": "1",
        **{f"MOONTUNE_{name}": str(value) for name, value in options.items()},
    }
    command = ["strace", "-f", "-y", "-qq", "-ttt", "--seccomp-bpf", "-s", "4096", "-e", TRACED]
    command += ["-o", str(trace), sys.executable, "-P", "-m", "server"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, process_group=0
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode()
        url = read_url(line)
        yield int(url.rpartition(":")[2]) if url else 0
    finally:
        process.stdout.close()
        with suppress(ProcessLookupError):
            os.kill(_traced(process.pid), 15)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _traced(strace: int) -> int:
    """The process that strace started."""
    children = Path(f"/proc/{strace}/task/{strace}/children").read_text().split()
    return int(children[0]) if children else strace


def _ask(port: int, bench: Bench, verdict: Verdict) -> None:
    caller = raw.Caller(port)
    made = caller.post("/v1/tuning/finetunes", {"name": "s7", "rank": 8}).json()["finetune_id"]
    step = {"finetune_id": made, "groups": [make_sft_group()], "lr": 1e-3}
    verdict.demand(caller.post("/v1/tuning/train_step", step).status == 200, "no step was trained")
    caller.call("POST", f"/v1/tuning/finetunes/{made}/checkpoints/save")
    link = caller.call("GET", f"/v1/tuning/finetunes/{made}/checkpoints/1/download").json()["url"]
    known = Known(finetune_id=made, step=1, token=link.rpartition("/")[2])
    document = caller.call("GET", "/openapi.json").json()

    num_urls = 0
    stride = bench.count(commit=9, full=1)
    for index, slot in enumerate(picture_routes(document, known)):
        for url in picture_urls()[index % stride :: stride]:
            method, path, body = slot.request(url, known)
            answer = caller.call(method, path, body)
            num_urls += 1
            wanted = 400 if path == "/v1/chat/completions" else 422
            is_refused = (answer.status, answer.code) == (wanted, "image_url_scheme")
            verdict.demand(is_refused, f"{slot} {url!r}: {answer.status} {answer.code}")
    num_headers = 0
    for header in HEADERS:
        for value in VALUES:
            for path in ("/readyz", f"/v1/tuning/finetunes/{made}", f"/v1/files/{known.token}"):
                answer = caller.call("GET", path, headers={header: value})
                num_headers += 1
                verdict.demand(0 < answer.status < 500, f"{header}: {value}: {answer.status}")
    for name in names()[:: bench.count(commit=20, full=1)]:
        body = {"finetune_id": name, "request": make_request()}
        answer = caller.post("/v1/tuning/rollouts", body)
        verdict.demand(400 <= answer.status < 500, f"rollouts of {name!r}: {answer.status}")
        caller.post("/v1/query", {**make_request("query"), "model": name})
    caller.close()
    verdict.figures |= {"picture_urls": num_urls, "headers": num_headers}


_CALL = re.compile(r"^\d+ +(\d+\.\d+) (\w+)\((.*)$")
_PATH = re.compile(r'^(?:(?:AT_FDCWD|\d+)(?:<([^>]*)>)?, )?"((?:[^"\\]|\\.)*)"')


def _judge(trace: str, data_dir: Path, ready_at: float, verdict: Verdict) -> None:
    own = (f"{data_dir.resolve()}/", *OWN)
    above = {str(path) for path in data_dir.resolve().parents}  # flushed when a folder is made
    num_calls = num_opens = 0
    beyond: list[str] = []
    strangers: set[str] = set()
    for line in trace.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        at, call, arguments = float(match[1]), match[2], match[3]
        if call in ("connect", "sendto", "sendmsg"):
            if "AF_INET" in arguments:
                num_calls += 1
                if not LOOPBACK.search(arguments):
                    beyond.append(f"{call}({arguments[:160]}")
        elif at >= ready_at and (opened := _PATH.match(arguments)) is not None:
            num_opens += 1
            name = os.path.normpath(os.path.join(opened[1] or os.getcwd(), opened[2]))
            is_known = f"{name}/".startswith(own) or name in OWN_FILES or name in above
            if not is_known and not _OF_A_PROCESS(name):
                strangers.add(name)
    verdict.demand(not beyond, f"it reached for {beyond[:5]}")
    verdict.demand(not strangers, f"it opened {sorted(strangers)[:20]}")
    verdict.demand(num_opens > 0, "strace saw no file opened: it was not looking")
    verdict.figures |= {
        "beyond_loopback": len(beyond),
        "calls_with_an_address": num_calls,
        "files_opened": num_opens,
        "of_them_not_its_own": len(strangers),
    }


_OF_A_PROCESS = re.compile(r"/proc/(\d+|self)(/task/\d+)?(/\w+)?").fullmatch
"""What processes read of themselves and of each other."""
