"""The production API with two differences: its workers are forked, and pauses are shorter.

Forked itself from a zygote that has imported this module. Everything else, the configuration from
the environment included, is as in `moontune serve`.
"""

from __future__ import annotations

import sys

from server.config import load_config
from server.restarts import RestartSchedule
from server.serving import serve
from server.worker_process import WorkerLaunch, trainer_command
from tests.chaos import visits
from tests.chaos.stub_command import stub_command, worker_words


def main() -> int:
    """Serve as the environment says; `argv` is the worker's zygote, the record of its forks, the
    first and the longest pause before a restart, and the most starts a minute."""
    zygote, record, first_pause, max_pause, max_starts = sys.argv[1:]
    config = load_config()
    visits.write_if_asked("api")
    trainer = trainer_command(config)

    def command(fd: int, epoch: int) -> list[str]:
        return stub_command(zygote, *worker_words(list(trainer(fd, epoch))), fd=fd, record=record)

    launch = WorkerLaunch(command=command, log_path=config.data_dir / "logs" / "worker.log")
    schedule = RestartSchedule(
        first_pause_seconds=float(first_pause),
        max_pause_seconds=float(max_pause),
        max_starts=int(max_starts),
    )
    return serve(config, launch=launch, restarts=schedule)


if __name__ == "__main__":
    sys.exit(main())
