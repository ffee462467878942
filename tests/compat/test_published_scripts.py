"""Training scripts as published, with the unmodified SDK, on the real server and the tiny model."""

from __future__ import annotations

import urllib.error
from itertools import count

import moondream as md
import pytest
from PIL import Image

from examples.shapes import Scene, draw_scene
from tests.live import LiveServer

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live")]

_names = count()


@pytest.fixture
def finetune(live: LiveServer):
    return md.ft("any-key", name=f"compat-{next(_names)}", rank=8, endpoint=live.tuning)


def scene(seed: int) -> Scene:
    return draw_scene(seed)


def rewards_for(answer: dict, right: str) -> list[float]:
    return [float(rollout["output"]["answer"] == right) for rollout in answer["rollouts"]]


def rl_group(answer: dict, rewards: list[float]) -> dict:
    return {
        "mode": "rl",
        "request": answer["request"],
        "rollouts": answer["rollouts"],
        "rewards": rewards,
    }


def test_the_quickstart_trains_on_direct_rollouts_and_then_on_a_stream(finetune, live) -> None:
    question = "what shape is it?"
    settings = {"temperature": 1.0, "max_tokens": 10}
    for step in range(1, 4):
        picture = scene(step)
        answer = finetune.rollouts(
            "query",
            image=picture.image,
            question=question,
            num_rollouts=4,
            settings=settings,
        )
        rewards = rewards_for(answer, picture.shapes[0].kind)
        result = finetune.train_step([rl_group(answer, rewards)], lr=1e-3)
        assert result["step"] == step
        assert f"{result['reward_mean']:.4f} {result['kl']:.4f}"

    pictures = [scene(seed) for seed in range(10, 14)]
    requests = [
        (
            picture.shapes[0].kind,
            {
                "skill": "query",
                "image": picture.image,
                "question": question,
                "num_rollouts": 4,
                "settings": settings,
            },
        )
        for picture in pictures
    ]
    steps = []
    for right, answer in finetune.rollout_stream(requests):
        result = finetune.train_step([rl_group(answer, rewards_for(answer, right))], lr=1e-3)
        steps.append(result["step"])
    assert steps == [4, 5, 6, 7]

    logged = finetune.log_metrics(step=7, metrics={"eval/accuracy": 0.5, "eval/mAP@50": 0.25})
    assert logged == {"ok": True, "step": 7, "logged_count": 2}
    checkpoint = finetune.save_checkpoint()["checkpoint"]
    assert checkpoint["step"] == 7
    model = md.vl(endpoint=f"{live.endpoint}/v1", model=finetune.model(7))
    assert isinstance(model.query(pictures[0].image, question)["answer"], str)


def test_supervised_groups_with_pil_images_lower_their_loss(finetune) -> None:
    pictures = [scene(seed).image for seed in range(4)]
    losses = []
    for _ in range(15):
        groups = [
            {
                "mode": "sft",
                "request": {
                    "skill": "query",
                    "question": "name the country",
                    "image": picture,
                    "settings": {"max_tokens": 10},
                },
                "target": {"answer": "iceland"},
            }
            for picture in pictures
        ]
        result = finetune.train_step(groups, lr=1e-2)
        assert f"{result['sft_loss']:.4f}"
        losses.append(result["sft_loss"])
    assert losses[-1] < 0.7 * losses[0]
    assert result["reward_mean"] is None


def test_rl_and_sft_groups_of_all_skills_share_a_step(finetune) -> None:
    picture = scene(3)
    boxes = [
        dict(zip(("x_min", "y_min", "x_max", "y_max"), shape.box, strict=True))
        for shape in picture.shapes
    ]
    detected = finetune.rollouts(
        "detect", image=picture.image, object="shape", num_rollouts=4, ground_truth={"boxes": boxes}
    )
    pointed = finetune.rollouts(
        "point", image=picture.image, object="shape", num_rollouts=4, ground_truth={"boxes": boxes}
    )
    thought = finetune.rollouts(
        "query",
        image=picture.image,
        question="how many shapes are there?",
        reasoning=True,
        spatial_refs=[[0.5, 0.5], [0.1, 0.1, 0.4, 0.4]],
        num_rollouts=2,
    )
    groups = [
        rl_group(detected, detected["rewards"]),
        rl_group(pointed, pointed["rewards"]),
        rl_group(thought, [0.0, 1.0]),
        {
            "mode": "sft",
            "request": {"skill": "point", "object": "shape", "image": picture.image},
            "target": {"boxes": boxes},
        },
        {
            "mode": "sft",
            "request": {"skill": "detect", "object": "unicorn", "image": picture.image},
            "target": {"boxes": []},
        },
        {
            "mode": "sft",
            "request": {
                "skill": "query",
                "question": "how many?",
                "image": picture.image,
                "reasoning": True,
            },
            "target": {
                "answer": "1",
                "reasoning": {
                    "text": "a circle",
                    "grounding": [{"start_idx": 2, "end_idx": 8, "points": [[0.5, 0.5]]}],
                },
            },
        },
    ]
    result = finetune.train_step(groups, lr=1e-3)
    assert result["step"] == 1
    assert result["applied"] is True
    for name in ("kl", "router_kl", "grad_norm", "reward_mean", "reward_std", "sft_loss"):
        assert isinstance(result[name], float), name
    assert set(result["reward_by_skill"]) == {"detect", "point", "query"}


def test_a_finetune_is_taken_up_again_by_its_id(finetune, live) -> None:
    again = md.ft("other-key", finetune_id=finetune.finetune_id, endpoint=live.tuning)
    assert (again.name, again.rank) == (finetune.name, 8)


def test_checkpoints_are_listed_deleted_and_saved_again(finetune, live) -> None:
    group = {
        "mode": "sft",
        "request": {"skill": "query", "question": "who?", "image": scene(1).image},
        "target": {"answer": "me"},
    }
    for _ in range(2):
        finetune.train_step([group], lr=1e-3)
        finetune.save_checkpoint()
    listed = finetune.list_checkpoints()
    assert [c["step"] for c in listed["checkpoints"]] == [1, 2]
    assert listed["has_more"] is False
    finetune.delete_checkpoint(1)
    finetune.delete_checkpoint(1)
    assert [c["step"] for c in finetune.list_checkpoints()["checkpoints"]] == [2]
    gone = md.vl(endpoint=f"{live.endpoint}/v1", model=finetune.model(1))
    with pytest.raises(urllib.error.HTTPError) as refused:
        gone.query(scene(1).image, "who?")
    assert refused.value.code == 404
    refused.value.close()


def test_a_deleted_finetune_is_gone(finetune) -> None:
    finetune.delete()
    finetune.delete()
    with pytest.raises(urllib.error.HTTPError) as refused:
        finetune.rollouts("query", question="hello?")
    assert refused.value.code == 404
    refused.value.close()


def test_every_skill_of_the_base_model_answers(live) -> None:
    model = md.vl(endpoint=f"{live.endpoint}/v1/")
    picture: Image.Image = scene(5).image
    assert set(model.query(picture, "how many shapes are there?")) >= {"answer"}
    assert model.caption(picture, length="short")["caption"]
    assert isinstance(model.detect(picture, "shape")["objects"], list)
    assert isinstance(model.point(picture, "shape")["points"], list)


def test_an_infeasible_name_says_what_to_do(live) -> None:
    answer = live.post("/v1/tuning/finetunes", {"name": "my finetune", "rank": 8})
    assert answer.status_code == 422
    assert "my-finetune" in answer.json()["message"]
