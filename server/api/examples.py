"""An example of every body, for the OpenAPI document; a test has each of them read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.api.schemas.batch import CompleteBody
from server.api.schemas.chat import ChatBody
from server.api.schemas.finetunes import CreateAdapterBody, CreateFinetuneBody
from server.api.schemas.inference import (
    AnswerCaptionBody,
    AnswerDetectBody,
    AnswerPointBody,
    AnswerQueryBody,
    AnswerSegmentBody,
)
from server.api.schemas.metrics import MetricsBody
from server.api.schemas.rollouts import RolloutsBody
from server.api.schemas.train_step import TrainStepBody

FINETUNE_ID = "01JZ3V6T8Q5W1N2X4C7B9M0KHD"
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLv"
    "AAAAAElFTkSuQmCC"
)

EXAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    CreateFinetuneBody: {"name": "cars", "rank": 8},
    CreateAdapterBody: {"name": "my cars", "rank": 16},
    RolloutsBody: {
        "finetune_id": FINETUNE_ID,
        "num_rollouts": 4,
        "request": {
            "skill": "detect",
            "object": "car",
            "image_url": PICTURE,
            "settings": {"temperature": 1.0},
        },
        "ground_truth": {"boxes": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.6}]},
    },
    TrainStepBody: {
        "finetune_id": FINETUNE_ID,
        "lr": 2e-4,
        "groups": [
            {
                "mode": "rl",
                "request": {"skill": "query", "question": "What is it?", "image_url": PICTURE},
                "rollouts": [
                    {
                        "skill": "query",
                        "finish_reason": "stop",
                        "output": {"answer": "a car"},
                        "answer_tokens": [281, 1170],
                        "thinking_tokens": [],
                        "has_answer_separator": False,
                        "coords": [],
                        "sizes": [],
                    }
                ],
                "rewards": [1.0],
            },
            {
                "mode": "sft",
                "request": {"skill": "query", "question": "What is it?", "image_url": PICTURE},
                "target": {"answer": "a car"},
            },
        ],
    },
    MetricsBody: {"step": 100, "metrics": {"eval/accuracy": 0.85, "eval/f1": 0.82}},
    AnswerQueryBody: {"question": "How many cars?", "image_url": PICTURE},
    AnswerCaptionBody: {"image_url": PICTURE, "length": "short"},
    AnswerPointBody: {"object": "car", "image_url": PICTURE},
    AnswerDetectBody: {"object": "car", "image_url": PICTURE},
    AnswerSegmentBody: {"object": "car", "image_url": PICTURE},
    CompleteBody: {"parts": [{"partNumber": 1, "etag": "9f86d081884c7d65"}]},
    ChatBody: {
        "model": "moondream3-preview",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": PICTURE}},
                    {"type": "text", "text": "How many cars?"},
                ],
            }
        ],
    },
}
