"""Admission: what calls share before and beside the worker, built once."""

from __future__ import annotations

from dataclasses import dataclass

from server.bodies.store import BodyStore
from server.budget import Budget
from server.config import ServerConfig
from server.http.slow_clients import ConnectionGuard, ConnectionLimits
from server.services.images import ImageDecoder
from server.services.pictures import Pictures


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Connections, bodies, what is parsed of them, and their pictures; each has its bound."""

    connections: ConnectionGuard
    bodies: BodyStore
    json_memory: Budget
    pictures: Pictures

    def budgets(self) -> dict[str, Budget]:
        """What is shared, by the name that `/metrics` has for it."""
        return {
            "bodies": self.bodies.room,
            "body_memory": self.bodies.memory,
            "json": self.json_memory,
            "step_pixels": self.pictures.steps,
            "answer_pixels": self.pictures.answers,
            "batch_pixels": self.pictures.batches,
        }


def build_admission(config: ServerConfig, decoder: ImageDecoder) -> Admission:
    """As it is configured."""
    bodies = BodyStore(
        config.data_dir / "spool",
        max_bytes=config.max_queued_bytes,
        max_memory_bytes=config.max_body_memory_bytes,
        min_free_bytes=config.min_free_bytes,
    )
    limits = ConnectionLimits(
        header_seconds=config.slow_client_seconds,
        body_seconds=config.slow_client_seconds,
        max_connections=config.max_connections,
        max_per_address=config.max_connections_per_address,
    )
    return Admission(
        connections=ConnectionGuard(limits, is_unlimited=config.is_trusted_proxy),
        bodies=bodies,
        json_memory=Budget(config.max_json_memory_bytes),
        pictures=Pictures(
            decoder,
            bodies,
            max_step_bytes=config.max_step_pixel_bytes,
            max_answer_bytes=config.max_answer_pixel_bytes,
            max_batch_bytes=config.max_batch_pixel_bytes,
            max_call_bytes=config.max_call_pixel_bytes,
            max_at_once=config.num_image_processes + 1,
            max_file_bytes=config.max_image_bytes,
        ),
    )
