"""What is known of the GPUs and of torch, gathered once; all checks are functions of it."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ASK_SECONDS = 20
_GPU_FIELDS = (
    "index",
    "uuid",
    "name",
    "driver_version",
    "memory.total",
    "memory.used",
    "compute_mode",
    "mig.mode.current",
    "compute_cap",
)
_PROCESS_FIELDS = ("gpu_uuid", "pid", "process_name")
_MIB = 1 << 20
_NVIDIA = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")

Ask = Callable[[Sequence[str]], "Answered | None"]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a command said."""

    status: int
    out: str


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as its driver describes it.

    Attributes:
        total_bytes, free_bytes: None where the driver does not say, as under MIG.
        compute_mode: `Default`, `Exclusive_Process` or `Prohibited`.
        has_mig: Whether it is divided into instances.
        capability: Such as (9, 0); (0, 0) where unknown.
    """

    index: int
    uuid: str
    name: str
    driver: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    compute_mode: str = "Default"
    has_mig: bool = False
    capability: tuple[int, int] = (0, 0)
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Torch:
    """The torch that is installed.

    Attributes:
        error: Why it cannot be imported; then nothing else is known.
        cuda: Of its build, such as `13.0`; None: built for the CPU.
        num_devices: GPUs that it can use.
        oldest_capability: Of a GPU that its build has code for; None where it does not say.
    """

    version: str = ""
    error: str = ""
    cuda: str | None = None
    num_devices: int = 0
    oldest_capability: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of it.

    Attributes:
        gpus: As the driver lists them; empty without a driver.
        driver_error: What `nvidia-smi` said instead of listing GPUs.
        num_gpus_on_bus: NVIDIA's display devices on the PCI bus, driver or not.
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
    """

    torch: Torch
    gpus: tuple[Gpu, ...] = ()
    driver_error: str = ""
    num_gpus_on_bus: int = 0
    visible: str | None = None

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """Those that torch may see, in its order."""
        if self.visible is None:
            return self.gpus
        names = [name.strip() for name in self.visible.split(",")]
        found = [gpu for name in names for gpu in self.gpus if _is_called(gpu, name)]
        return tuple(found)


def gather(
    environment: Mapping[str, str],
    *,
    ask: Ask | None = None,
    bus: Path = Path("/sys/bus/pci/devices"),
    torch: Callable[[], Torch] | None = None,
) -> Facts:
    """Ask the driver, the bus and torch.

    Args:
        ask: Runs a command; None where there is no such program.
        torch: Says what torch is installed.
    """
    gpus, error = _ask_driver(ask or run)
    return Facts(
        torch=(torch or ask_torch)(),
        gpus=gpus,
        driver_error=error,
        num_gpus_on_bus=_count_on_bus(bus),
        visible=environment.get("CUDA_VISIBLE_DEVICES"),
    )


def run(command: Sequence[str]) -> Answered | None:
    """Run a program that only looks; None where it is not there or does not end."""
    if shutil.which(command[0]) is None:
        return None
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Answered(status=-1, out=f"{command[0]} does not answer")
    return Answered(status=ended.returncode, out=ended.stdout or ended.stderr)


def ask_torch() -> Torch:
    """Import torch, and ask it."""
    try:
        import torch
    except Exception as error:  # ImportError, or OSError of a library that it misses
        return Torch(error=_first_line(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old; that is a check of ours
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        architectures = torch.cuda.get_arch_list() if num_devices else []
    return Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        num_devices=num_devices,
        oldest_capability=min(map(_capability_of, architectures), default=None),
    )


def _ask_driver(ask: Ask) -> tuple[tuple[Gpu, ...], str]:
    fields = ",".join(_GPU_FIELDS)
    answer = ask(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    if answer is None:
        return (), ""
    rows = [row for row in _rows(answer.out) if len(row) == len(_GPU_FIELDS) and row[0].isdigit()]
    if answer.status != 0 or not rows:
        return (), (answer.out.strip().splitlines() or ["nvidia-smi says nothing"])[0]
    running: dict[str, list[GpuProcess]] = {}
    fields = ",".join(_PROCESS_FIELDS)
    listed = ask(["nvidia-smi", f"--query-compute-apps={fields}", "--format=csv,noheader,nounits"])
    for row in _rows("" if listed is None else listed.out):
        if len(row) == len(_PROCESS_FIELDS) and row[1].isdigit():
            running.setdefault(row[0], []).append(GpuProcess(pid=int(row[1]), name=row[2]))
    return tuple(_gpu(row, tuple(running.get(row[1], ()))) for row in rows), ""


def _gpu(row: list[str], processes: tuple[GpuProcess, ...]) -> Gpu:
    total, used = _mib(row[4]), _mib(row[5])
    major, _, minor = row[8].partition(".")
    is_known = major.isdigit() and minor.isdigit()
    return Gpu(
        index=int(row[0]),
        uuid=row[1],
        name=row[2],
        driver=row[3],
        total_bytes=total,
        free_bytes=None if total is None or used is None else total - used,
        compute_mode=row[6],
        has_mig=row[7] == "Enabled",
        capability=(int(major), int(minor)) if is_known else (0, 0),
        processes=processes,
    )


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]


def _mib(text: str) -> int | None:
    return int(text) * _MIB if text.isdigit() else None


def _count_on_bus(bus: Path) -> int:
    def read(path: Path) -> str:
        try:
            return path.read_text().strip()
        except OSError:
            return ""

    devices = bus.iterdir() if bus.is_dir() else ()
    return sum(
        read(device / "vendor") == _NVIDIA and read(device / "class").startswith(_DISPLAY_CLASSES)
        for device in devices
    )


def _is_called(gpu: Gpu, name: str) -> bool:
    return name == str(gpu.index) or (len(name) > len("GPU-") and gpu.uuid.startswith(name))


def _capability_of(architecture: str) -> tuple[int, int]:
    """`sm_90a` -> (9, 0), `compute_120` -> (12, 0)."""
    digits = "".join(filter(str.isdigit, architecture)) or "0"
    return int(digits[:-1] or 0), int(digits[-1])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
