"""The services of batches, built once."""

from __future__ import annotations

from dataclasses import dataclass

from server.batch_files import BatchFiles
from server.config import ServerConfig
from server.db.connection import Database
from server.domain.seeds import SeedSource
from server.services.batches.cleanup import BatchCleanup
from server.services.batches.lines import Lines
from server.services.batches.results import Batches
from server.services.batches.runner import BatchRunner
from server.services.batches.uploads import BatchUploads
from server.services.batches.work import BatchLimits, BatchWork
from server.services.handover import Handover
from server.services.links import Links
from server.services.models import Models
from server.services.quotas import Quotas


@dataclass(frozen=True, kw_only=True)
class BatchServices:
    """What batches come by, what works on them, what shows them, and what clears them away."""

    uploads: BatchUploads
    runner: BatchRunner
    results: Batches
    cleanup: BatchCleanup


def build_batches(
    config: ServerConfig,
    *,
    database: Database,
    lines: Lines,
    handover: Handover,
    models: Models,
    quotas: Quotas,
    seeds: SeedSource,
    links: Links,
) -> BatchServices:
    """Wire them; nothing is started."""
    files = BatchFiles(config.data_dir, min_free_bytes=config.min_free_bytes)
    cleanup = BatchCleanup(
        database,
        files,
        upload_seconds=config.batch_upload_seconds,
        results_seconds=config.batch_results_seconds,
    )
    work = BatchWork(
        database=database,
        files=files,
        cleanup=cleanup,
        lines=lines,
        handover=handover,
        models=models,
        limits=BatchLimits(
            max_lines=config.max_batch_lines,
            max_line_bytes=config.max_batch_line_bytes,
            chunk_lines=config.batch_chunk_lines,
            output_lines=config.max_batch_output_lines,
            max_seconds=config.batch_max_seconds,
            window=2 * config.max_batch_calls,
        ),
    )
    runner = BatchRunner(database, work)
    return BatchServices(
        uploads=BatchUploads(
            database=database,
            files=files,
            cleanup=cleanup,
            runner=runner,
            models=models,
            quotas=quotas,
            seeds=seeds,
            max_bytes=config.max_batch_bytes,
        ),
        runner=runner,
        results=Batches(database, files, links, results_seconds=config.batch_results_seconds),
        cleanup=cleanup,
    )
