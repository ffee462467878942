"""The CPU image without a container engine: its steps executed, its service used and stopped.

    python -m tools.image.steps               as root, on Linux; needs debootstrap and the network
    python -m tools.image.steps --base ROOT   with a Debian root that is there already

It reads docker/Dockerfile and executes it (`build`): the base is made by debootstrap; apt-get,
useradd and pip run as written. Then, as compose.yaml would have it (`container`): a start without a
key, which has to be refused; a key; the service, until the health check succeeds; `doctor` and a
backup beside it; rollouts and a train step by the SDK; SIGTERM, and exit status 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.image import dockerfile
from tools.image.build import Builder, Image, run
from tools.image.container import Container

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = "http://deb.debian.org/debian"
VOLUMES = ["/data", "/models", "/backups"]
READY_SECONDS = 600.0
STOP_SECONDS = 90.0
BUILD_TOOLS = ("gcc", "cc", "c++", "ld", "make", "pip", "pip3", "uv", "git", "hatchling")
INSIDE = "--inside"


def main() -> int:
    """Run it in a mount namespace, so that no mount outlives it, whatever way it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="A Debian root of the base's release.")
    parser.add_argument(INSIDE, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return rehearse(options.inside, options.base)
    if os.geteuid():
        return complain("it mounts file systems, and has to run as root")
    with tempfile.TemporaryDirectory(prefix="image-steps-") as workspace:
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m"]
        command += ["tools.image.steps", INSIDE, workspace, *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def rehearse(workspace: Path, base: Path | None) -> int:
    """Build, look, serve, call, stop."""
    started = time.monotonic()
    read = dockerfile.parse((ROOT / "docker" / "Dockerfile").read_text())
    base = base or make_base(read.stages[0].base, workspace / "base")
    builder = Builder(
        workspace=workspace, base=base, repository=ROOT, arguments={"TORCH": "cpu"}, say=say
    )
    image = builder.build(read)
    say(f"built in {time.monotonic() - started:.0f} s, {size_of(image) >> 20} MiB above the base")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    container = Container(
        image,
        volumes=workspace / "volumes",
        mounts=VOLUMES,
        environment={"MOONTUNE_PORT": str(port), "MOONTUNE_MODEL": "tiny"},
    )
    look(container)
    use(container, image, port, workspace / "log")
    say(f"all in {time.monotonic() - started:.0f} s")
    return 0


def make_base(image: str, folder: Path) -> Path:
    """A Debian root of the release that an image's tag names."""
    release = image.partition(":")[2].partition("-")[0]
    if shutil.which("debootstrap") is None:
        raise SystemExit("debootstrap is missing: apt-get install debootstrap, or --base ROOT")
    say(f"debootstrap {release}, in place of {image.partition('@')[0]}")
    run(["debootstrap", "--variant=minbase", release, str(folder), DEBIAN])
    # As the image has them: without these, apt-get finds no repairs.
    (folder / "etc/apt/sources.list").write_text(
        f"deb {DEBIAN} {release} main\n"
        f"deb {DEBIAN} {release}-updates main\n"
        f"deb {DEBIAN}-security {release}-security main\n"
    )
    return folder


def look(container: Container) -> None:
    """What the image must not have or allow."""
    search = f"for tool in {' '.join(BUILD_TOOLS)}; do command -v $tool; done; true"
    found = expect(container.call(["/bin/sh", "-c", search]), 0, "build tools looked for")
    if found:
        raise SystemExit(f"the image has build tools: {found}")
    expect(container.call(["touch", "/opt/moontune/x"]), 1, "its root cannot be written")
    status = expect(container.call(["cat", "/proc/self/status"]), 0, "its rights looked at")
    for fact in ("Uid:\t10001", "Gid:\t10001", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        if fact not in status:
            raise SystemExit(f"{fact} is wanted:\n{status}")


def use(container: Container, image: Image, port: int, log: Path) -> None:
    """A service's life."""
    refused = container.call(container.entry())
    if refused.returncode != 1 or "moontune keys create" not in refused.stderr:
        raise SystemExit(f"without a key it should not start: {refused}")
    say("refused without a key")
    made = container.call(container.entry("keys", "create", "--name", "laptop"))
    key = expect(made, 0, "a key made").strip()

    server = container.start(container.entry(), log)
    try:
        await_health(container, image, server, log)
        first = expect(container.beside(server, ["cat", "/proc/1/comm"]), 0, "process 1").strip()
        if first != image.config["ENTRYPOINT"][0]:
            raise SystemExit(f"process 1 is {first}")
        expect(container.beside(server, ["moontune", "doctor"]), 0, "doctor")
        expect(container.beside(server, ["moontune", "status"]), 0, "status")
        train(f"http://127.0.0.1:{port}", key)
        expect(container.beside(server, ["moontune", "backup", "/backups/first"]), 0, "backup")
        status = container.stop(server, STOP_SECONDS)
    finally:
        container.end(server)
    if status:
        raise SystemExit(f"after SIGTERM: exit status {status}\n{log.read_text()}")
    say("SIGTERM: exit status 0")
    expect(container.call(container.entry("verify")), 0, "verify")
    restore = ("restore", "/backups/first", "--data-dir", "/backups/restored")
    expect(container.call(container.entry(*restore)), 0, "restore")


def await_health(
    container: Container, image: Image, server: subprocess.Popen[bytes], log: Path
) -> None:
    """Call the health check until it succeeds."""
    assert image.healthcheck is not None
    began = time.monotonic()
    while (found := container.beside(server, list(image.healthcheck.argv))).returncode:
        if server.poll() is not None or time.monotonic() > began + READY_SECONDS:
            raise SystemExit(f"not ready: {found.stderr}\n{log.read_text()}")
        time.sleep(0.2)
    say(f"healthy after {time.monotonic() - began:.1f} s")


def train(endpoint: str, key: str) -> None:
    """Rollouts and one train step by the official SDK, on this machine."""
    import moondream
    from PIL import Image as Picture

    finetune = moondream.ft(api_key=key, name="image", rank=8, endpoint=f"{endpoint}/v1/tuning")
    request = {
        "skill": "query",
        "question": "What is it?",
        "image": Picture.new("RGB", (64, 64), "white"),
        "num_rollouts": 2,
        "settings": {"temperature": 1.0, "max_tokens": 8},
    }
    ((_, answer),) = finetune.rollout_stream(iter([(None, request)]))
    group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
    step = finetune.train_step([{**group, "rewards": [0.0, 1.0]}], lr=1e-3)["step"]
    if step != 1:
        raise SystemExit(f"after one train step the finetune is at step {step}")
    say("rollouts and a train step by the SDK")


def expect(ended: subprocess.CompletedProcess[str], status: int, what: str) -> str:
    """See that a command ended as it should; returns what it said."""
    if ended.returncode != status:
        told = f"{ended.stdout}{ended.stderr}"
        raise SystemExit(f"{what}: {ended.args[-3:]} ended with {ended.returncode}:\n{told}")
    say(f"    {what}")
    return ended.stdout


def size_of(image: Image) -> int:
    """Bytes of what was added to the base."""
    files = (path for layer in image.layers[1:] for path in layer.rglob("*"))
    return sum(path.lstat().st_size for path in files if path.is_file() or path.is_symlink())


def say(text: str) -> None:
    print(text, flush=True)


def complain(text: str) -> int:
    print(f"image-steps: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
