"""`moontune serve` with the fake worker: `serve_with_fake.py DATA_DIR PORT [AT_START]`."""

from __future__ import annotations

import sys
from pathlib import Path

from server.config import load_config
from server.serving import serve
from server.worker_process import WorkerLaunch

FAKE_WORKER = Path(__file__).parent / "fake_worker.py"


def main() -> None:
    data_dir, port, *at_start = sys.argv[1:]

    def command(fd: int, epoch: int) -> list[str]:
        words = ["--fd", str(fd), "--epoch", str(epoch), "--at-start", "".join(at_start)]
        return [sys.executable, str(FAKE_WORKER), *words]

    launch = WorkerLaunch(command=command, log_path=Path(data_dir) / "logs" / "worker.log")
    sys.exit(serve(load_config(data_dir=data_dir, port=port, log_level="error"), launch=launch))


if __name__ == "__main__":
    main()
