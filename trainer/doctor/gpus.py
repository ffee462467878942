"""Whether there is a GPU that torch can use: driver, build, visibility, mode."""

from __future__ import annotations

import re

from contract.findings import Finding, fault, ok, warning
from trainer.doctor.facts import Facts, Gpu

LEAST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
"""Of Linux, by the major version of CUDA that torch was built for.

Source: NVIDIA's CUDA release notes, table of minor version compatibility.
"""
GPU_BUILD = "pip install --force-reinstall 'torch>=2.11,<2.14'"
"""The package index has the build for GPUs."""


def check_gpu(facts: Facts, *, device: str, is_tiny: bool) -> Finding:
    """Whether there is a GPU and its driver answers."""
    if facts.gpus:
        names = ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in facts.gpus)
        return ok("gpu", f"{names}.")
    if device == "cpu":
        return ok("gpu", "The CPU was asked for.")
    if facts.driver_error or facts.num_gpus_on_bus:
        said = facts.driver_error or f"{facts.num_gpus_on_bus} are in the machine, without a driver"
        return fault(
            "gpu",
            f"The GPU's driver does not answer: {said.rstrip('.')}.",
            "sudo modprobe nvidia; after an upgrade of the driver restart the machine; without a"
            " driver install one (https://www.nvidia.com/drivers), or take --device cpu",
        )
    if facts.torch.num_devices:
        return ok("gpu", f"torch uses {facts.torch.num_devices} GPUs; nvidia-smi is not there.")
    if device.startswith("cuda"):
        return fault(
            "gpu",
            f"--device {device} is asked for, and this machine has no GPU.",
            "moontune serve --device cpu, or a machine (in a container: --gpus all) with one",
        )
    if is_tiny:
        return ok("gpu", "No GPU; the tiny model needs none.")
    return warning(
        "gpu",
        "No GPU was found; on the CPU an answer takes minutes.",
        "use a machine with a GPU (in a container: --gpus all)",
    )


def check_build(facts: Facts, *, device: str) -> Finding | None:
    """Whether torch is built for the GPU, and for its driver."""
    torch = facts.torch
    if not facts.gpus or torch.error or device == "cpu":
        return None
    if torch.cuda is None:
        return fault(
            "torch-build",
            f"torch {torch.version} is built for the CPU, and there is a GPU.",
            f"{GPU_BUILD}, or --device cpu",
        )
    driver = facts.gpus[0].driver
    least = LEAST_DRIVER.get(int(torch.cuda.split(".")[0]))
    if least is not None and _numbers(driver) < least:
        return fault(
            "torch-build",
            f"The driver {driver} is too old for torch {torch.version}, which is built for CUDA"
            f" {torch.cuda} and needs {least[0]}.{least[1]} or later.",
            f"upgrade the driver (Debian, Ubuntu: sudo apt install nvidia-driver-{least[0]}) and"
            " restart, or install torch for an older CUDA: https://pytorch.org/get-started/locally",
        )
    oldest = torch.oldest_capability
    too_old = [gpu for gpu in facts.visible_gpus if oldest and (0, 0) < gpu.capability < oldest]
    if oldest and too_old and len(too_old) == len(facts.visible_gpus):
        is_, wants = (f"{major}.{minor}" for major, minor in (too_old[0].capability, oldest))
        return fault(
            "torch-build",
            f"{too_old[0].name} has compute capability {is_}; torch {torch.version} has code for"
            f" {wants} and later.",
            "moontune serve --device cpu, a newer GPU, or a torch that is built for it",
        )
    return ok("torch-build", f"torch for CUDA {torch.cuda} and driver {driver} go together.")


def check_visibility(facts: Facts, *, device: str) -> Finding | None:
    """Whether torch sees what the driver lists, and the one that was asked for."""
    torch = facts.torch
    if not facts.gpus or torch.error or torch.cuda is None or device == "cpu":
        return None
    if facts.visible is not None and not facts.visible_gpus and torch.num_devices == 0:
        return fault(
            "gpu-visible",
            f"CUDA_VISIBLE_DEVICES={facts.visible} hides the GPU from torch.",
            "unset CUDA_VISIBLE_DEVICES",
        )
    if torch.num_devices == 0:
        return fault(
            "gpu-visible",
            "The driver lists a GPU that torch cannot use.",
            "python -c 'import torch; torch.zeros(1).cuda()' says why; in a container: --gpus all",
        )
    index = int(device.partition(":")[2] or 0) if device.startswith("cuda") else 0
    if index >= torch.num_devices:
        return fault(
            "gpu-visible",
            f"--device {device} is asked for; torch sees {torch.num_devices}, numbered from 0.",
            f"moontune serve --device cuda:{torch.num_devices - 1}",
        )
    return ok("gpu-visible", f"torch sees {torch.num_devices}.")


def check_mode(facts: Facts, *, device: str, ours: frozenset[int]) -> Finding | None:
    """Whether the GPU lets a process in: compute mode and MIG.

    Args:
        ours: Processes of the server that we are about.
    """
    gpu = chosen_gpu(facts, device)
    if gpu is None:
        return None
    others = [process for process in gpu.processes if process.pid not in ours]
    reset = f"sudo nvidia-smi -i {gpu.index} -c DEFAULT"
    if gpu.compute_mode == "Prohibited":
        return fault("gpu-mode", f"{gpu.name} lets no process compute (Prohibited).", reset)
    if gpu.compute_mode.startswith("Exclusive") and others:
        pids = ", ".join(f"{process.pid} ({process.name})" for process in others)
        return fault(
            "gpu-mode",
            f"{gpu.name} takes one process at a time ({gpu.compute_mode}), and has {pids}.",
            f"{reset}, or end that process: kill {others[0].pid}",
        )
    if gpu.has_mig and facts.torch.num_devices == 0:
        return fault(
            "gpu-mode",
            f"{gpu.name} is divided (MIG), and no instance is there for us.",
            f"sudo nvidia-smi mig -i {gpu.index} -cgi 0 -C makes one of all of it; nvidia-smi -L"
            " lists them, CUDA_VISIBLE_DEVICES=MIG-... chooses one",
        )
    if gpu.has_mig:
        return warning(
            "gpu-mode",
            f"{gpu.name} is divided (MIG): the memory of one instance decides what fits.",
            "nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES=MIG-... chooses one",
        )
    if gpu.compute_mode.startswith("Exclusive"):
        return warning(
            "gpu-mode",
            f"{gpu.name} takes one process at a time ({gpu.compute_mode}): `moontune export` does"
            " not work beside a server.",
            f"{reset}, or export with --device cpu",
        )
    return ok("gpu-mode", f"{gpu.name} takes any process.")


def chosen_gpu(facts: Facts, device: str) -> Gpu | None:
    """The GPU that `--device` means, as the driver describes it."""
    if device == "cpu":
        return None
    if facts.visible is not None and "MIG-" in facts.visible:
        return next((gpu for gpu in facts.gpus if gpu.has_mig), None)
    index = int(device.partition(":")[2] or 0) if device.startswith("cuda:") else 0
    gpus = facts.visible_gpus
    return gpus[index] if index < len(gpus) else None


def _numbers(driver: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", driver)[:2])
