"""16 calls of 4 rollouts through HTTP with the official SDK, at once against one after another.

    python -m benchmarks.rollouts_http [--quick] [--runs 5]

A server with the checkpoint of `benchmarks.served_checkpoint` runs as a process, one torch thread,
float32, its own defaults. Each rollout has exactly 24 tokens, which is checked, as its end token is
practically impossible. One by one is a loop over `finetune.rollouts`; at once is the SDK's own
`rollout_stream` with 16 calls in flight. Pictures become JPEG before the clock starts.

    rollouts.http_concurrent_vs_serial         one picture, prompt and finetune; caches warm
    rollouts.http_concurrent_distinct_images   16 pictures that the server never saw, on each side
    rollouts.vision_of_second_call             a call on a new picture against a second one on it

Equal calls are not answered alike: the n-th of them gets the n-th seed of its content
(`server/domain/seeds.py`), so nothing in them has to vary, and all 64 rollouts are checked to be
distinct. Before anything is timed, two servers with one seed answer the same calls, one of them one
by one, the other at once, and must give the same rollouts.

Prints JSON lines: `ratio` is the seconds of the wall clock one by one over those at once, each the
median of its runs; `spread` is the lowest and the highest ratio of a run. `cpu_seconds` tells who
worked: if it is not the worker, the ratio says little about the engine. On a machine that is busy
with other things `worker_cpu_ratio` is what remains to be believed.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import moondream as md
import numpy as np
from moondream.finetune import Finetune
from moondream.types import Base64EncodedImage
from PIL import Image

from benchmarks.served_checkpoint import write_checkpoint
from benchmarks.served_model import ServedModel, Used, served

NUM_CALLS, PER_CALL, NUM_TOKENS = 16, 4, 24
SETTINGS = {"temperature": 1.0, "max_tokens": NUM_TOKENS}
QUESTION = "what do you see in this picture?"
SIDE_PX = 378  # the least that the vision tower does for a picture: one view, one tile
RANK, SEED = 16, 7
LOGPROB_TOLERANCE = 1e-5
MAX_DIFFERENT = 1
"""Rollouts that rounding may change: a draw among 2048 falls within the rounding of a border about
once in 50,000 times, and 1,536 are compared."""

TURNED_AWAY_SECONDS = 40.0
"""Below the time after which a waiting call is refused and the SDK sends it again."""

COUNTS_SECONDS = 3.0
"""Longer than the worker keeps its counts to itself."""

Answers = list[dict[str, Any]]
Pictures = Sequence[Base64EncodedImage]

_numbers = itertools.count()


def main() -> None:
    arguments = _parse()
    num_runs = 3 if arguments.quick else arguments.runs
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "checkpoint")
        write_checkpoint(checkpoint)
        same, distinct = [new_picture()] * NUM_CALLS, new_pictures()
        with served(checkpoint, Path(folder, "one-by-one"), seed=SEED) as server:
            finetune = taught(server)
            wanted = [one_by_one(finetune, pictures) for pictures in (same, distinct)]
        with served(checkpoint, Path(folder, "at-once"), seed=SEED) as server:
            finetune = taught(server)
            found = [at_once(finetune, pictures) for pictures in (same, distinct)]
            checked = [compared(w, f) for w, f in zip(wanted, found, strict=True)]
            tell_same_picture(server, finetune, same, num_runs, checked[0])
            tell_distinct_pictures(server, finetune, num_runs, checked[1])
            tell_second_call(server, finetune, num_runs)


# --- the three comparisons ---


def tell_same_picture(
    server: ServedModel, finetune: Finetune, same: Pictures, num_runs: int, checked: dict[str, Any]
) -> None:
    sides = {
        "theirs": lambda: one_by_one(finetune, same),
        "ours": lambda: at_once(finetune, same),
    }
    used = _alternating(server, sides, num_runs)
    _tell("rollouts.http_concurrent_vs_serial", used, checked=checked, sdk=version("moondream"))


def tell_distinct_pictures(
    server: ServedModel, finetune: Finetune, num_runs: int, checked: dict[str, Any]
) -> None:
    fresh = (new_pictures() for _ in itertools.count())
    prepared = [next(fresh) for _ in range(2 * (num_runs + 1))]
    sides = {
        "theirs": lambda: one_by_one(finetune, prepared.pop()),
        "ours": lambda: at_once(finetune, prepared.pop()),
    }
    used = _alternating(server, sides, num_runs)
    _tell("rollouts.http_concurrent_distinct_images", used, checked=checked)


def tell_second_call(server: ServedModel, finetune: Finetune, num_runs: int) -> None:
    """One rollout of one token, so that a call is its picture and its prefill.

    The second call has another prompt. A third one, by another finetune, can share the picture's
    tokens only, as nothing computed under one version of the weights serves another.
    """
    other = md.ft("none", name="other", rank=RANK, endpoint=server.tuning)
    pictures = [new_picture() for _ in range(3 * num_runs + 1)]
    used: dict[str, list[Used]] = {"theirs": [], "ours": [], "other finetune": []}
    before = _image_counts(server)
    for picture in pictures:
        calls = {
            "theirs": lambda p=picture: _first_token(finetune, p, QUESTION),
            "ours": lambda p=picture: _first_token(finetune, p, "where is it?"),
            "other finetune": lambda p=picture: _first_token(other, p, QUESTION),
        }
        for name, call in calls.items():
            used[name].append(_used_by(server, call))
    verdict = no_picture_again(before, _image_counts(server), num_pictures=len(pictures))
    used = {name: every[1:] for name, every in used.items()}  # the first warms
    others = used.pop("other finetune")
    _tell(
        "rollouts.vision_of_second_call",
        used,
        worker_seconds_saved=_median_difference(used["theirs"], used["ours"]),
        worker_seconds_saved_for_other_finetune=_median_difference(used["theirs"], others),
        no_picture_again=verdict,
    )


Counts = tuple[float | None, float | None]


def no_picture_again(before: Counts, after: Counts, *, num_pictures: int) -> str:
    """Whether each new picture was encoded once, and found when another finetune asked for it.

    Args:
        before, after: Hits and misses of the cache of image tokens; None where it is not counted.
    """
    if after[0] is None or after[1] is None:
        return "not checked: /metrics does not count the hits and misses of image_features"
    hits = after[0] - (before[0] or 0.0)
    misses = after[1] - (before[1] or 0.0)
    assert misses == num_pictures, f"{misses:g} pictures encoded, {num_pictures} were new"
    assert hits >= num_pictures, f"{hits:g} pictures found, wanted at least {num_pictures}"
    return "checked in /metrics"


def _image_counts(server: ServedModel) -> Counts:
    """After they have come to rest: the worker tells them now and then."""
    counts, before = _image_counts_now(server), None
    while counts not in ((None, None), before):
        time.sleep(COUNTS_SECONDS)
        counts, before = _image_counts_now(server), counts
    return counts


def _image_counts_now(server: ServedModel) -> Counts:
    label = 'cache="image_features"'
    hits = server.counter("moontune_cache_hits_total", label)
    return hits, server.counter("moontune_cache_misses_total", label)


# --- calls ---


def one_by_one(finetune: Finetune, pictures: Pictures) -> Answers:
    return [_full(finetune.rollouts(**_request(picture))) for picture in pictures]


def at_once(finetune: Finetune, pictures: Pictures) -> Answers:
    """In the order of the pictures."""
    stream = finetune.rollout_stream(
        [(index, _request(picture)) for index, picture in enumerate(pictures)],
        max_concurrency=len(pictures),
        buffer_size=len(pictures),
    )
    answers = {index: _full(answer) for index, answer in stream}
    return [answers[index] for index in range(len(pictures))]


def compared(wanted: Answers, found: Answers) -> dict[str, Any]:
    """What the calls at once gave, against the same calls one by one on a server of the same seed.

    Calls with equal content may have swapped their seeds, so rollouts are paired by their tokens.

    Raises:
        AssertionError: Rollouts differ by more than rounding, or equal calls were answered alike.
    """
    by_tokens = {tuple(r["answer_tokens"]): r for answer in wanted for r in answer["rollouts"]}
    rollouts = [rollout for answer in found for rollout in answer["rollouts"]]
    num_distinct = len({tuple(rollout["answer_tokens"]) for rollout in rollouts})
    assert num_distinct == len(by_tokens) == NUM_CALLS * PER_CALL, (num_distinct, len(by_tokens))
    pairs = [(by_tokens.get(tuple(r["answer_tokens"])), r) for r in rollouts]
    num_different = sum(one is None for one, _ in pairs)
    assert num_different <= MAX_DIFFERENT, f"{num_different} rollouts differ from those one by one"
    worst = max(
        abs(a - b)
        for one, other in pairs
        if one is not None
        for a, b in zip(one["logprobs"]["answer"], other["logprobs"]["answer"], strict=True)
    )
    assert worst < LOGPROB_TOLERANCE, f"log-probabilities differ by {worst}"
    return {"different_rollouts": num_different, "logprob_difference": worst}


def taught(server: ServedModel) -> Finetune:
    """A finetune after one step, so that its adapter changes something."""
    finetune = md.ft("none", name="measured", rank=RANK, endpoint=server.tuning)
    request = {"skill": "query", "question": QUESTION, "image": new_picture(seed=2**20)}
    group = {"mode": "sft", "request": request, "target": {"answer": "a red circle"}}
    assert finetune.train_step([group], lr=1e-3)["applied"]
    return finetune


def _request(picture: Base64EncodedImage) -> dict[str, Any]:
    return {
        "skill": "query",
        "image": picture,
        "question": QUESTION,
        "num_rollouts": PER_CALL,
        "settings": SETTINGS,
    }


def _full(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, after a look at its lengths."""
    found = [(len(r["answer_tokens"]), r["finish_reason"]) for r in answer["rollouts"]]
    assert found == [(NUM_TOKENS, "length")] * PER_CALL, found
    return answer


def _first_token(finetune: Finetune, picture: Base64EncodedImage, question: str) -> None:
    finetune.rollouts("query", image=picture, question=question, settings={"max_tokens": 1})


# --- pictures ---


def new_pictures() -> list[Base64EncodedImage]:
    return [new_picture() for _ in range(NUM_CALLS)]


def new_picture(seed: int | None = None) -> Base64EncodedImage:
    """Soft spots of colour as the SDK sends them; another picture at each call without a seed."""
    number = next(_numbers) if seed is None else seed
    spots = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(spots).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=95)
    encoded = base64.b64encode(file.getvalue()).decode()
    return Base64EncodedImage(image_url=f"data:image/jpeg;base64,{encoded}")


# --- measuring ---


def _alternating(
    server: ServedModel, sides: dict[str, Callable[[], Answers]], num_runs: int
) -> dict[str, list[Used]]:
    """One run of each side after the other, each first in turn; one round before warms both."""
    used: dict[str, list[Used]] = {name: [] for name in sides}
    for run in range(num_runs + 1):
        for name in sorted(sides, reverse=run % 2 == 0):
            one = _used_by(server, sides[name])
            assert one.wall < TURNED_AWAY_SECONDS, f"{one.wall} s: calls may have been refused"
            if run > 0:
                used[name].append(one)
    return used


def _used_by(server: ServedModel, call: Callable[[], Any]) -> Used:
    before = server.used()
    call()
    return server.used() - before


def _median_difference(more: list[Used], less: list[Used]) -> float:
    return statistics.median(
        one.worker - other.worker for one, other in zip(more, less, strict=True)
    )


def _tell(name: str, used: dict[str, list[Used]], **more: Any) -> None:
    """One comparison; theirs is the side without what is compared."""
    rounds = [
        their.wall / our.wall for their, our in zip(used["theirs"], used["ours"], strict=True)
    ]
    medians = {
        side: {part: statistics.median(getattr(u, part) for u in every) for part in vars(every[0])}
        for side, every in used.items()
    }
    walls = {side: parts.pop("wall") for side, parts in medians.items()}
    found = {
        "name": name,
        "ratio": walls["theirs"] / walls["ours"],
        "runs": len(rounds),
        "spread": [min(rounds), max(rounds)],
        "worker_cpu_ratio": medians["theirs"]["worker"] / medians["ours"]["worker"],
        "wall_seconds": walls,
        "cpu_seconds": medians,
        **more,
    }
    print(json.dumps(found), flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three runs")
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
