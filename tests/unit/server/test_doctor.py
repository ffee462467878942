"""`moontune doctor`: each fault is seeded, and its cause, its cure and the exit status are read.

Machines are made up (`Machine` is replaced field by field); sockets, files, locks and databases are
real. Faults of the GPU, of torch and of the model are in tests/unit/trainer/test_doctor.py.
"""

from __future__ import annotations

import dataclasses
import fcntl
import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contract.findings import Finding, Level
from server.cli import app
from server.config import ServerConfig
from server.data_lock import lock_data_directory
from server.db import migrate
from server.doctor import machine as machines
from server.doctor.examine import examine, is_well
from server.doctor.machine import Machine, Ran

GIB = 1 << 30
NOW_MS = 1_800_000_000_000
CANARY = "canary-3f9a"
HEALTHY_TRAINER = Ran(status=0, out='{"findings": []}', err="")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MOONTUNE_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once and copied."""
    folder = tmp_path_factory.mktemp("template")
    migrate.upgrade(ServerConfig(data_dir=folder))
    return folder / "moontune.db"


class Patient:
    """A machine that is well, with a data directory; a test makes it ill."""

    def __init__(self, folder: Path, template: Path):
        self.data_dir = folder / "data"
        self.data_dir.mkdir(mode=0o700)
        shutil.copy(template, self.data_dir / "moontune.db")
        self.proc = folder / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.mount(self.data_dir, "ext4")
        self.options: dict[str, Any] = {"data_dir": self.data_dir, "port": free_port()}
        self.held = ExitStack()
        self.machine = Machine(
            environment={},
            python=(3, 12),
            encoding="utf-8",
            uid=os.geteuid(),
            hostname=socket.gethostname(),
            proc=self.proc,
            temporary=folder,
            max_open_files=20_000,
            now_ms=lambda: NOW_MS,
            free_bytes=lambda _path: 500 * GIB,
            may_write=lambda _path: True,
            owner_of=lambda path: path.lstat().st_uid,
            run=lambda _command: HEALTHY_TRAINER,
        )

    def has(self, **changes: Any) -> None:
        self.machine = dataclasses.replace(self.machine, **changes)

    def mount(self, path: Path, kind: str) -> None:
        lines = ("1 1 0:1 / / rw - ext4 /dev/sda rw", f"2 1 0:2 / {path} rw - {kind} where rw")
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines))

    def process(self, pid: int, *words: str, parent: int = 1) -> Path:
        """Put a process into the process file system."""
        folder = self.proc / str(pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes("\0".join([*words, ""]).encode())
        (folder / "stat").write_text(f"{pid} (some (name)) S {parent} {pid} {pid} 0")
        (folder / "comm").write_text(f"{Path(words[0]).name}\n")
        return folder

    def sql(self, statement: str) -> None:
        with closing(sqlite3.connect(self.data_dir / "moontune.db")) as file, file:
            file.execute(statement)

    def findings(self) -> list[Finding]:
        return examine(self.machine, self.options)

    def finding(self, check: str) -> Finding:
        (found,) = [finding for finding in self.findings() if finding.check == check]
        return found


@pytest.fixture
def patient(tmp_path: Path, template: Path) -> Iterator[Patient]:
    made = Patient(tmp_path, template)
    with made.held:
        yield made


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_who_is_well_hears_so(patient: Patient) -> None:
    for ours in ("finetunes", "batches", "logs", "spool"):
        (patient.data_dir / ours).mkdir(exist_ok=True)
    findings = patient.findings()
    assert [f for f in findings if f.level is not Level.OK] == []
    assert is_well(findings)
    assert len({finding.check for finding in findings}) == len(findings)


# --- the faults: how each is seeded


def old_python(p: Patient) -> None:
    p.has(python=(3, 10))


def ascii_output(p: Patient) -> None:
    p.has(encoding="ascii")


def few_files(p: Patient) -> None:
    p.has(max_open_files=256)


def full_temporary(p: Patient) -> None:
    temporary = p.machine.temporary
    p.has(free_bytes=lambda path: 1000 if path == temporary else 500 * GIB)


def clock_of_1970(p: Patient) -> None:
    p.has(now_ms=lambda: 1_000_000)


def clock_before_rows(p: Patient) -> None:
    columns = "id, account_id, name, rank, step, adapter_seed, created_at_ms, updated_at_ms"
    late = NOW_MS + 3_600_000
    p.sql(
        f"INSERT INTO finetunes ({columns}, ordinal) SELECT '{'0' * 26}', id, 'f', 8, 0, 0, {late},"
        f" {late}, 1 FROM accounts LIMIT 1"
    )


def taken_port(p: Patient) -> None:
    taken = p.held.enter_context(socket.create_server(("127.0.0.1", p.options["port"])))
    inode = os.fstat(taken.fileno()).st_ino
    (p.process(77, "/usr/bin/other") / "fd").mkdir()
    (p.proc / "77" / "fd" / "3").symlink_to(f"socket:[{inode}]")
    (p.proc / "net").mkdir()
    (p.proc / "net" / "tcp").write_text(Path("/proc/net/tcp").read_text())


def strange_host(p: Patient) -> None:
    p.options["host"] = "192.0.2.1"  # for documentation; no machine has it
    p.has(environment={"MOONTUNE_API_KEY": CANARY})


def unknown_host(p: Patient) -> None:
    p.options["host"] = "no host"
    p.has(environment={"MOONTUNE_API_KEY": CANARY})


def open_to_all(p: Patient) -> None:
    p.options["host"] = "0.0.0.0"


def public_and_open(p: Patient) -> None:
    p.has(environment={"MOONTUNE_PUBLIC_URL": "https://tune.example"})


def misspelt_option(p: Patient) -> None:
    p.has(environment={"MOONTUNE_PROT": CANARY})


def wrong_value(p: Patient) -> None:
    p.has(environment={"MOONTUNE_MAX_GROUPS": "many"})


def proxy_for_all(p: Patient) -> None:
    p.has(environment={"HTTP_PROXY": f"http://user:{CANARY}@proxy:3128", "no_proxy": "example.org"})


def small_proxy(p: Patient) -> None:
    port = p.held.enter_context(stand_in(large_status=413))
    url = f"http://127.0.0.1:{port}"
    p.has(environment={"MOONTUNE_PUBLIC_URL": url, "MOONTUNE_API_KEY": CANARY})
    p.options["port"] = p.held.enter_context(stand_in())
    url = f"http://127.0.0.1:{p.options['port']}"
    p.held.enter_context(lock_data_directory(p.data_dir, url=url))


def read_only(p: Patient) -> None:
    p.has(may_write=lambda path: path != p.data_dir)


def file_for_folder(p: Patient) -> None:
    p.options["data_dir"] = p.data_dir / "moontune.db"


def foreign_owner(p: Patient) -> None:
    p.has(owner_of=lambda path: 4321 if path.name == "moontune.db" else os.geteuid())


def open_to_writers(p: Patient) -> None:
    p.data_dir.chmod(0o777)


def full_disk(p: Patient) -> None:
    p.has(free_bytes=lambda path: 1000 if path == p.data_dir else 500 * GIB)


def network_disk(p: Patient) -> None:
    p.mount(p.data_dir, "nfs4")


def silent_holder(p: Patient) -> None:
    p.held.enter_context(lock_data_directory(p.data_dir, url="http://127.0.0.1:9"))


def holder_elsewhere(p: Patient) -> None:
    lock = p.held.enter_context((p.data_dir / "lock").open("w"))
    facts = {"pid": 5, "host": "other-machine", "started_at": "2026-11-29T05:00:00+00:00"}
    json.dump(facts, lock)
    lock.flush()
    fcntl.flock(lock, fcntl.LOCK_EX)


def newer_database(p: Patient) -> None:
    p.sql("UPDATE alembic_version SET version_num = '9999'")


def lost_database(p: Patient) -> None:
    folder = p.data_dir / "finetunes" / "01M8MS0GYXHXRKY2T8YH14GT5Y"
    folder.mkdir(parents=True)
    (folder / "00000001-a.weights.safetensors").write_bytes(b"x")
    (p.data_dir / "moontune.db").unlink(missing_ok=True)


def emptied_database(p: Patient) -> None:
    lost_database(p)
    (p.data_dir / "moontune.db").touch()


def damaged_database(p: Patient) -> None:
    path = p.data_dir / "moontune.db"
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)


def unreachable_database(p: Patient) -> None:
    url = f"postgresql://moontune:{CANARY}@127.0.0.1:{free_port()}/moontune"
    p.has(environment={"MOONTUNE_DATABASE_URL": url})


def wrong_password(p: Patient) -> None:
    listener = p.held.enter_context(socket.create_server(("127.0.0.1", 0)))
    refusing = threading.Thread(target=refuse_password, args=(listener,))
    refusing.start()
    p.held.callback(refusing.join)
    url = f"postgresql://moontune:{CANARY}@127.0.0.1:{listener.getsockname()[1]}/moontune"
    p.has(environment={"MOONTUNE_DATABASE_URL": f"{url}?sslmode=disable&gssencmode=disable"})


def refuse_password(listener: socket.socket) -> None:
    """Speak as PostgreSQL does until the password has come: its protocol, version 3."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)  # who wants in
        connection.sendall(b"R" + struct.pack("!ii", 8, 3))  # a password, please
        assert CANARY.encode() in connection.recv(1024)
        fields = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "moontune"\0\0'
        connection.sendall(b"E" + struct.pack("!i", 4 + len(fields)) + fields)


def unreadable_url(p: Patient) -> None:
    p.has(environment={"MOONTUNE_DATABASE_URL": CANARY})


def orphan(p: Patient) -> None:
    p.process(1, "/sbin/init")
    p.process(50, sys.executable, "-m", "server")
    p.process(51, sys.executable, "-m", "trainer", "--fd", "3", "--epoch", "1", parent=50)
    p.process(52, sys.executable, "-m", "trainer", "--fd", "3", "--epoch", "1", parent=1)


def broken_trainer(p: Patient) -> None:
    ran = Ran(status=1, out="", err=f"Traceback\nImportError: libfoo of {CANARY}\n")
    p.has(run=lambda _command: ran, environment={"HF_TOKEN": CANARY})


FAULTS: tuple[tuple[Callable[[Patient], None], str, str, str], ...] = (
    # how it is seeded, the check, words of the cause, words of the cure
    (old_python, "python", r"Python 3\.10 .* needs 3\.11", r"python3\.11 -m venv"),
    (ascii_output, "output", "encoded as ascii", "export PYTHONUTF8=1"),
    (few_files, "open-files", r"^256 files .* want 2816", r"ulimit -Hn 2816"),
    (full_temporary, "temporary", r"1\.0 kB free", "export TMPDIR="),
    (clock_of_1970, "clock", "before this release was made", "timedatectl set-ntp true"),
    (clock_before_rows, "clock-and-rows", "stands 3600 s before", "timedatectl set-ntp true"),
    (taken_port, "address", r"taken by process 77 \(other\)", r"--port 0 .* kill 77"),
    (strange_host, "address", r"192\.0\.2\.1 is no address of this machine", "--host 127"),
    (unknown_host, "address", "The host no host is not known", "--host 127"),
    (open_to_all, "exposure", "there is no key: serve refuses", "moontune keys create"),
    (public_and_open, "exposure", "PUBLIC_URL leads .* serve refuses", "keys create .*unset"),
    (misspelt_option, "configuration", "MOONTUNE_PROT is not an option; MOONTUNE_PORT", "unset"),
    (wrong_value, "configuration", "max_groups: ", "moontune config check"),
    (proxy_for_all, "proxy", "NO_PROXY does not exempt 127", 'NO_PROXY="127.0.0.1,localhost'),
    (small_proxy, "public-url", "refuses a body of 2 MiB with 413", "client_max_body_size"),
    (read_only, "data-directory", "No files can be made in .*data", r"sudo chown .*data"),
    (file_for_folder, "data-directory", "is a file", "--data-dir"),
    (foreign_owner, "owner", r"moontune\.db belongs to user 4321; we are", "sudo chown -R"),
    (open_to_writers, "permissions", r"Others may change .*mode 777", "chmod 700 .*data"),
    (full_disk, "disk", r"1\.0 kB free.* below 268", "make room"),
    (network_disk, "file-system", r"network file system \(nfs4\)", "on a disk of this machine"),
    (silent_holder, "lock", rf"process {os.getpid()} on .*, started 20.* not answer", "kill "),
    (holder_elsewhere, "lock", r"another machine \(process 5 on other-machine", "kill 5"),
    (newer_database, "database", "has schema 9999, which a newer release made", "Install that"),
    (lost_database, "database", "holds finetunes, but no moontune.db", "moontune restore BACKUP"),
    (emptied_database, "database", "holds finetunes, but no moontune.db", "moontune restore"),
    (damaged_database, "database", "is damaged", r"mv .*damaged; moontune restore"),
    (unreachable_database, "database", "cannot be used: .*refused", "start PostgreSQL"),
    (wrong_password, "database", "password authentication failed", r"ALTER ROLE moontune PASS"),
    (unreadable_url, "database", "is no URL", "export MOONTUNE_DATABASE_URL=postgresql://"),
    (orphan, "orphans", r"process 52\.$", "^kill -9 52$"),
    (broken_trainer, "trainer", "ImportError: libfoo", "pip install --force-reinstall"),
)


@pytest.mark.parametrize(
    ("seed", "check", "cause", "cure"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS]
)
def test_a_seeded_fault_is_found_alone_with_cause_and_cure(
    patient: Patient, seed: Callable[[Patient], None], check: str, cause: str, cure: str
) -> None:
    seed(patient)
    findings = patient.findings()
    (fault,) = [finding for finding in findings if finding.level is Level.FAULT]
    assert fault.check == check
    assert re.search(cause, fault.cause), fault.cause
    assert re.search(cure, fault.cure), fault.cure
    assert not is_well(findings)
    assert CANARY not in repr(findings)
    assert not [finding for finding in findings if "could not be checked" in finding.cause]


# --- what is only to be known


def test_a_server_that_answers_is_no_fault_and_its_port_is_not_taken_by_others(
    patient: Patient,
) -> None:
    port = patient.options["port"] = patient.held.enter_context(stand_in())
    url = f"http://127.0.0.1:{port}"
    patient.held.enter_context(lock_data_directory(patient.data_dir, url=url))
    asked: list[str] = []
    patient.has(run=lambda command: asked.extend(command) or HEALTHY_TRAINER)
    assert [f for f in patient.findings() if f.level is not Level.OK] == []
    assert patient.finding("lock").cause.startswith(f"A server runs on it: {url}")
    assert asked[asked.index("--ours") + 1] == str(os.getpid())
    patient.options["port"] = free_port()
    assert patient.finding("lock").level is Level.WARNING


def test_warnings_do_not_count(patient: Patient) -> None:
    patient.data_dir.chmod(0o755)
    (patient.data_dir / "thesis.tex").write_text("")
    patient.sql("UPDATE alembic_version SET version_num = '0001'")
    patient.has(max_open_files=1024, free_bytes=lambda _path: 300 << 20)
    patient.has(environment={"MOONTUNE_ALLOW_OPEN": "true"})
    patient.options["host"] = "0.0.0.0"
    findings = patient.findings()
    warned = {f.check: f for f in findings if f.level is Level.WARNING}
    assert set(warned) == {
        *("exposure", "permissions", "strangers", "database", "open-files", "disk")
    }
    assert all(finding.cure for finding in warned.values())
    assert "thesis.tex" in warned["strangers"].cause
    assert "schema 0001; this release needs" in warned["database"].cause
    assert is_well(findings)


def test_a_copy_of_before_an_upgrade_keeps_files_and_is_warned_of(patient: Patient) -> None:
    path = patient.data_dir / "moontune.db.0002.20261129T050000Z.backup"
    assert patient.finding("copies").level is Level.OK
    shutil.copy(patient.data_dir / "moontune.db", path)
    found = patient.finding("copies")
    assert found.level is Level.WARNING
    assert "of 2026-11-29 keeps the files that it names" in found.cause
    assert found.cure.startswith(f"rm {path} and start the server again")
    assert patient.finding("strangers").level is Level.OK
    path.write_bytes(b"")
    found = patient.finding("copies")
    assert (found.level, f"{path} cannot be read" in found.cause) == (Level.WARNING, True)
    assert found.cure.startswith(f"rm {path}, if you")
    assert is_well(patient.findings())


def test_a_public_address_in_front_of_an_open_server_is_warned_of(patient: Patient) -> None:
    public = {"MOONTUNE_PUBLIC_URL": "https://tune.example"}
    patient.has(environment={**public, "MOONTUNE_ALLOW_OPEN": "true"})
    found = patient.finding("exposure")
    assert (found.level, "no key" in found.cause) == (Level.WARNING, True)
    assert "moontune keys create" in found.cure
    patient.has(environment={**public, "MOONTUNE_API_KEY": CANARY})
    assert patient.finding("exposure").level is Level.OK


def test_a_check_that_breaks_is_told_and_the_others_go_on(patient: Patient) -> None:
    def break_down(_path: Path) -> int:
        raise RuntimeError(CANARY)

    patient.has(free_bytes=break_down)
    findings = patient.findings()
    told = {f.check for f in findings if "could not be checked (RuntimeError)" in f.cause}
    assert told == {"temporary", "disk"}
    assert CANARY not in repr(findings)
    assert any(finding.check == "orphans" for finding in findings)


def test_the_trainers_findings_are_told_without_secrets(patient: Patient) -> None:
    told = {"check": "model", "level": "fault", "cause": f"token {CANARY}", "cure": CANARY}
    ran = Ran(status=1, out=json.dumps({"findings": [told]}), err="")
    patient.has(run=lambda _command: ran, environment={"HF_TOKEN": CANARY})
    found = patient.finding("model")
    assert (found.level, found.cause, found.cure) == (Level.FAULT, "token ***", "***")


def test_the_verb_ends_with_one_when_something_is_wrong_and_speaks_json(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line, on this very machine but for the trainer's part."""
    real = machines.this_machine()
    monkeypatch.setattr(
        machines,
        "this_machine",
        lambda: dataclasses.replace(real, run=lambda _command: HEALTHY_TRAINER),
    )
    words = ["doctor", "--data-dir", str(patient.data_dir), "--port", "0"]
    patient.data_dir.chmod(0o770)
    told = CliRunner().invoke(app, [*words, "--json"])
    found = json.loads(told.stdout)
    assert (told.exit_code, found["is_well"]) == (1, False)
    (fault,) = [f for f in found["findings"] if f["level"] == "fault"]
    assert (fault["check"], fault["cure"]) == ("permissions", f"chmod 700 {patient.data_dir}")
    patient.data_dir.chmod(0o700)
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.stdout
    assert "0 faults" in told.stdout


@contextmanager
def stand_in(*, large_status: int | None = None) -> Iterator[int]:
    """What answers like a server, or like a proxy that has no patience with large bodies."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, b'{"status": "ok"}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if large_status is not None:
                self._answer(large_status, b"<html>Request Entity Too Large</html>")
            else:
                self._answer(405, b'{"request_id": "x", "message": "no"}')

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()
