"""`python -m tests.chaos.one_step DIR`: two steps in one process, for strace; marks say when."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx

from tests.chaos.local import Player, serving


async def main(data_dir: Path) -> None:
    marks = {name: data_dir.parent / f"{name}.mark" for name in ("asked", "answered")}
    files = {name: os.open(path, os.O_WRONLY | os.O_CREAT) for name, path in marks.items()}

    async def relief(answer: httpx.Response) -> None:
        raise AssertionError(answer.text)

    async with serving(data_dir) as http:
        player = Player(http=http, relief=relief)
        finetune = await player.create("traced")
        for answer in ("one", "two"):  # the second sweeps nothing that it needs
            os.write(files["asked"], b".")
            await player.train(finetune, answer)
            os.write(files["answered"], b".")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
