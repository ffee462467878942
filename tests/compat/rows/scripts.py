"""Training scripts A1 to A14: what each has to reach; http-api.md section 21.

Counts are cut unless the run is a full one; those of A7 never are.
"""

from __future__ import annotations

import math
from typing import Any

from moondream.types import (
    CheckpointListOutput,
    MetricsLogOutput,
    RolloutsResponse,
    SaveCheckpointOutput,
    TrainStepOutput,
)

from tests.compat.as_typed import assert_fits
from tests.compat.bench import Bench
from tests.compat.case import Client, Table
from tests.compat.link import IN_THE_STEP, WITH_THE_ANSWER, Link
from tests.compat.readers import READERS, shapes_of, write_with
from tests.compat.scripts import (
    a01_query_rl,
    a02_query_rl_medical,
    a03_query_sft_countries,
    a04_query_sft_frames,
    a05_detect_rl,
    a06_detect_rl_many,
    a07_detect_rl_injected,
    a08_quickstart,
    a09_documented_snippets,
    a10_generic_loop,
    a11_query_sft_large,
    a12_replay_buffer,
    a13_ask_after_save,
    a14_export,
)
from tests.live import ROOT

TABLE = Table(Client.SCRIPTS)

TINY = ROOT / "tiny" / "checkpoint"
MIB = 1 << 20


def logged(bench: Bench, finetune_id: str, name: str) -> dict[int, float]:
    """The values of a metric by step, as the server has them."""
    answer = bench.http.get(
        f"/v1/tuning/finetunes/{finetune_id}/metrics", params={"name": name, "limit": 100}
    )
    return {item["step"]: item["value"] for item in answer.json()["metrics"]}


@TABLE.row("A1: query RL, three-class photos, `rollout_stream`")
def a01(bench: Bench) -> str:
    seen = a01_query_rl.main(bench.live.endpoint, num_evaluated=bench.count(cut=2, full=50))
    assert seen["step"] == 10
    assert logged(bench, seen["finetune_id"], "eval/accuracy") == seen["accuracies"]
    rewards = logged(bench, seen["finetune_id"], "train/reward_mean")
    assert rewards == dict(enumerate(seen["rewards"], start=1))
    assert set(seen["accuracies"]) == {5, 10}
    assert isinstance(seen["answer"], str)
    return "10 steps, metrics stored, the saved model answers"


@TABLE.row("A2: query RL, a medical two-class set, and an older variant")
def a02(bench: Bench) -> str:
    num_evaluated = bench.count(cut=2, full=50)
    seen = a02_query_rl_medical.main(
        bench.live.endpoint, steps=bench.count(cut=5, full=10), num_evaluated=num_evaluated
    )
    assert seen["step"] == bench.count(cut=5, full=10)
    assert seen["step"] in logged(bench, seen["finetune_id"], "eval/accuracy")
    steps = bench.count(cut=6, full=20)
    older = a02_query_rl_medical.older_main(
        bench.live.endpoint, steps=steps, num_evaluated=num_evaluated
    )
    assert older["step"] == steps
    assert older["num_logged"] == 2 * steps + 1
    assert isinstance(older["answer"], str)
    return f"{seen['step']} and {steps} steps, `logged_count` adds up"


@TABLE.row("A3: query SFT, countries, PIL images and `settings` inside `request`")
def a03(bench: Bench) -> str:
    seen = a03_query_sft_countries.main(
        bench.live.endpoint,
        epochs=bench.count(cut=3, full=10),
        num_pictures=bench.count(cut=20, full=28),
    )
    assert seen["batch_sizes"] == [16, bench.count(cut=4, full=12)]
    assert seen["last_epoch_loss"] < seen["first_epoch_loss"]
    assert seen["lines"][0].startswith("step 1 sft_loss ")
    first, last = seen["first_epoch_loss"], seen["last_epoch_loss"]
    return f"{seen['step']} steps, the loss falls from {first:.4f} to {last:.4f}"


@TABLE.row("A4: query SFT, action in a 3x3 grid of frames, 128 images a step")
def a04(bench: Bench) -> str:
    if bench.is_full:
        with Link(bench.live.port, lambda _: None) as link:
            seen = a04_query_sft_frames.main(link.url)
            mib = link.max_bytes / MIB
        assert mib > 100
    else:
        seen = a04_query_sft_frames.main(bench.live.endpoint, steps=1, side=84, noise=False)
        mib = 0.0
    assert max(seen["seconds"]) < 900
    values = logged(bench, seen["finetune_id"], "train/grad_norm")
    assert len(values) == seen["step"]
    size = f" of {mib:.0f} MiB" if mib else ""
    return f"128 images{size}, {max(seen['seconds']):.0f} s the longest step, two metrics"


@TABLE.row("A5: detect RL, server rewards, endless data")
def a05(bench: Bench) -> str:
    steps = bench.count(cut=4, full=100)
    seen = a05_detect_rl.main(bench.live.endpoint, steps=steps)
    assert seen["num_calls"] == steps
    assert any(seen["applied"])
    constant = a05_detect_rl.main(
        bench.live.endpoint, steps=bench.count(cut=2, full=100), constant=True
    )
    assert constant["num_calls"] == bench.count(cut=2, full=100)
    assert not any(constant["applied"])
    return f"ends at step {steps}, with constant rewards as well"


@TABLE.row("A6: detect RL, many boxes, `max_tokens` 256")
def a06(bench: Bench) -> str:
    steps = bench.count(cut=1, full=50)
    seen = a06_detect_rl_many.main(
        bench.live.endpoint, steps=steps, num_evaluated=bench.count(cut=4, full=50)
    )
    assert seen["step"] == steps
    assert all(0 <= miou <= 1 for miou in seen["mious"])
    assert logged(bench, seen["finetune_id"], "eval/miou")[steps] == seen["mious"][-1]
    return f"mean IoU {seen['mious'][-1]:.2f} after step {steps}"


@TABLE.row("A7: detect RL, ground truth injected as a rollout that the script builds")
def a07(bench: Bench) -> str:
    seen = a07_detect_rl_injected.main(bench.live.endpoint, steps=bench.count(cut=1, full=20))
    assert all(result["applied"] for result in seen["results"])
    assert not any(result["warnings"] for result in seen["results"])
    assert seen["num_injected"] > 0
    assert seen["num_boxes_compared"] > 100
    assert seen["num_bins_unlike"] == 0
    return (
        f"32 groups of 8, {seen['num_injected']} injected; bins of {seen['num_boxes_compared']}"
        " boxes agree"
    )


@TABLE.row("A8: the documented quickstart, direct and streamed")
def a08(bench: Bench) -> str:
    steps = bench.count(cut=5, full=20)
    assert a08_quickstart.main(bench.live.endpoint, steps=steps)["reached"] == [steps, steps]
    return f"both loops end at step {steps}"


@TABLE.row("A9: every snippet of the SDK's page")
def a09(bench: Bench) -> str:
    seen = a09_documented_snippets.main(bench.live.endpoint)
    for name, answer in seen["rollouts"].items():
        assert_fits(answer, RolloutsResponse, name)
        for rollout in answer["rollouts"]:
            assert {"skill", "finish_reason", "output", "answer_tokens"} <= set(rollout)
            assert {"thinking_tokens", "has_answer_separator", "coords", "sizes"} <= set(rollout)
    for number, (name, result) in enumerate(seen["steps"].items(), start=1):
        assert_fits(result, TrainStepOutput, name)
        assert result["step"] == number
        assert result["applied"] is True
    assert_fits(seen["logged"], MetricsLogOutput)
    assert seen["logged"] == {"ok": True, "step": 3, "logged_count": 2}
    assert_fits(seen["saved"], SaveCheckpointOutput)
    assert_fits(seen["listed"], CheckpointListOutput)
    assert [c["step"] for c in seen["listed"]["checkpoints"]] == [3]
    assert seen["listed_after"]["checkpoints"] == []
    assert seen["is_same_name"]
    assert seen["status_after_delete"] == 404
    return "no error, every answer as `moondream.types` declares it"


@TABLE.row("A10: generic loop over skills and modes, resumed by `finetune_id`")
def a10(bench: Bench) -> str:
    leg = bench.count(cut=4, full=20)
    save_every = bench.count(cut=2, full=10)
    service = bench.service("a10", model="tiny")
    service.start()
    first = a10_generic_loop.main(service.url, more_steps=leg, save_every=save_every)
    identity = {"finetune_id": first["finetune_id"], "more_steps": leg, "save_every": save_every}
    again = a10_generic_loop.main(service.url, step=leg, **identity)
    assert service.stop() == 0
    service.start()
    after = a10_generic_loop.main(service.url, step=2 * leg, **identity)
    service.close()
    legs = (first, again, after)
    assert [step for one in legs for step in one["steps"]] == list(range(1, 3 * leg + 1))
    saved = [step for one in legs for step in one["saved"]]
    assert saved == list(range(save_every, 3 * leg + 1, save_every))
    return f"steps 1 to {3 * leg}, on after a reconnect and after a restart of the server"


@TABLE.row(
    "A11: query SFT over 10,000 images, the link drops during a step, the batch is sent again",
    is_long=True,
)
def a11(bench: Bench) -> str:
    epochs = bench.count(cut=1, full=2)
    num_pictures = bench.count(cut=1_000, full=a11_query_sft_large.NUM_PICTURES)
    num_batches = epochs * num_pictures // a11_query_sft_large.BATCH_SIZE
    # Connections by number: a few to begin with, then one for each step.
    deeds = {30: IN_THE_STEP, 31: WITH_THE_ANSWER, 60: IN_THE_STEP, 90: WITH_THE_ANSWER}
    service = bench.service("a11")
    service.start()
    with Link(service.port, deeds.get) as link:
        seen = a11_query_sft_large.main(link.url, epochs=epochs, num_pictures=num_pictures)
        dropped = link.counts[IN_THE_STEP] + link.counts[WITH_THE_ANSWER]
    path = f"/v1/tuning/finetunes/{seen['finetune_id']}"
    steps = service.get(path)[1]["finetune"]["step"]
    baseline = service.get(f"{path}/metrics?name=eval/accuracy")[1]["metrics"]
    service.close()
    assert [metric["step"] for metric in baseline] == [0]
    assert seen["num_batches"] == num_batches
    assert seen["num_sent_again"] == dropped == len(deeds)
    assert seen["step"] == seen["saved_step"] == steps == num_batches
    return f"{seen['num_batches']} batches, {dropped} sent again, step {seen['step']}"


@TABLE.row("A12: replay buffer, old and rebuilt groups, missing fields, negative rewards")
def a12(bench: Bench) -> str:
    steps = bench.count(cut=25, full=60)
    widest = bench.count(cut=16, full=32), bench.count(cut=4, full=8)
    seen = a12_replay_buffer.main(bench.live.endpoint, steps=steps, widest=widest)
    results = seen["results"]
    assert [result["step"] for result in results] == list(range(1, steps + 1))
    assert all(math.isfinite(result["kl"]) for result in results)
    assert results[-1]["reward_mean"] is not None
    assert seen["rates"][-1] < seen["rates"][0], "lr was never lowered: kl stayed small"
    oldest = max(result["policy_lag"] or 0 for result in results)
    assert oldest >= 24
    return f"accepted, groups up to {oldest:.0f} steps old, `kl` finite"


@TABLE.row("A13: right after a save, 24 threads of `md.vl` on the new model id")
def a13(bench: Bench) -> str:
    seen = a13_ask_after_save.main(bench.live.endpoint, rounds=bench.count(cut=2, full=10))
    kinds = [set(answers) for answers in seen["answers"]]
    assert all(len(kind) == 1 for kind in kinds), kinds
    assert all(len(answers) == 24 for answers in seen["answers"])
    assert kinds[0] != kinds[1], "the second save answers like the first"
    assert {seen["of_base"]} not in kinds, "a save answers like the base model"
    return f"{len(kinds)} saves, 24 equal answers each, none of an older state"


@TABLE.row("A14: export, read by the rules of kestrel, torch and MLX")
def a14(bench: Bench) -> str:
    num_pictures = bench.count(cut=2, full=5)
    server = bench.service("a14", model="tiny")
    server.start()
    for rank, readers in ((32, ("kestrel",)), (8, ("torch", "MLX")), (16, ("torch", "MLX"))):
        seen = a14_export.main(server.url, rank=rank, num_pictures=num_pictures)
        assert seen["of_server"] != seen["of_base"], "nothing was learnt"
        shapes = shapes_of(TINY, rank)
        for reader in readers:
            factors = READERS[reader](seen["file"], shapes)
            directory = bench.folder / f"read-by-{reader}-{rank}"
            write_with(factors, TINY, directory)
            service = bench.service(f"{reader}-{rank}", model=directory, dtype="float32")
            service.start()
            read: list[Any] = a14_export.greedy_answers(
                f"{service.url}/v1", "none", None, num_pictures=num_pictures
            )
            service.close()
            assert read == seen["of_server"], f"{reader}, rank {rank}"
    num_answers = 4 * num_pictures
    return f"kestrel 32, torch and MLX 8 and 16: {num_answers} greedy answers each are the server's"
