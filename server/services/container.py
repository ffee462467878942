"""Services: everything that routes may ask for, built once."""

from __future__ import annotations

from dataclasses import dataclass

from server.config import ServerConfig
from server.db.connection import Database
from server.domain.seeds import SeedSource
from server.files import StateFiles
from server.meters import Meters
from server.services.adapters import Adapters
from server.services.admission import Admission, build_admission
from server.services.batches.lines import Lines, ReadLine
from server.services.batches.wiring import BatchServices, build_batches
from server.services.books import Books
from server.services.checkpoints import Checkpoints
from server.services.cleanup import Cleanup
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.downloads import Downloads
from server.services.finetunes import Finetunes
from server.services.handover import Handover
from server.services.images import ImageDecoder
from server.services.inference import Inference
from server.services.keyed import KeyedCalls
from server.services.keyring import KeyRing
from server.services.ledger import Ledger
from server.services.limits import RateLimits
from server.services.links import Links
from server.services.metered_engine import MeteredEngine
from server.services.metrics import Metrics
from server.services.models import Models
from server.services.observation import Observation
from server.services.quotas import Quotas
from server.services.rollouts import Rollouts
from server.services.step_work import StepWork
from server.services.training import Training


@dataclass(frozen=True, kw_only=True)
class Services:
    """The services of one process and what they share."""

    config: ServerConfig
    engine: SupervisedEngine
    database: Database
    meters: Meters
    keys: KeyRing
    limits: RateLimits
    books: Books
    observation: Observation
    admission: Admission
    dispatcher: Dispatcher
    cleanup: Cleanup
    ledger: Ledger
    keyed: KeyedCalls
    finetunes: Finetunes
    rollouts: Rollouts
    training: Training
    checkpoints: Checkpoints
    downloads: Downloads
    metrics: Metrics
    models: Models
    inference: Inference
    links: Links
    batches: BatchServices


def build_services(
    config: ServerConfig,
    *,
    engine: SupervisedEngine,
    decoder: ImageDecoder,
    read_line: ReadLine,
    root_seed: int,
) -> Services:
    """Wire the services; nothing is started and nothing is opened."""
    database = Database(config.resolved_database_url)
    books = Books(database)
    engine = MeteredEngine(engine, books)
    limits = RateLimits(bad_keys_per_minute=config.requests_per_minute)
    quotas = Quotas(database)
    files = StateFiles(config.data_dir, min_free_bytes=config.min_free_bytes)
    seeds = SeedSource(root_seed)
    cleanup = Cleanup(database, files, engine)
    meters = Meters()
    dispatcher = Dispatcher(
        engine,
        max_calls=config.max_engine_calls,
        max_batch_calls=config.max_batch_calls,
        meters=meters,
    )
    handover = Handover(dispatcher)
    adapters = Adapters(database, files)
    admission = build_admission(config, decoder)
    ledger = Ledger(database, meters)
    keyed = KeyedCalls(database)
    models = Models(database, engine, base_aliases=config.model_aliases)
    links = Links(database, seconds=config.download_link_seconds)
    batches = build_batches(
        config,
        database=database,
        lines=Lines(
            engine=engine,
            dispatcher=dispatcher,
            handover=handover,
            adapters=adapters,
            pictures=admission.pictures,
            read_line=read_line,
        ),
        handover=handover,
        models=models,
        quotas=quotas,
        seeds=seeds,
        links=links,
    )
    return Services(
        config=config,
        engine=engine,
        database=database,
        meters=meters,
        keys=KeyRing(
            database,
            own_key=None if config.api_key is None else config.api_key.get_secret_value(),
            defaults=config.limits,
            may_be_open=config.may_be_open,
        ),
        limits=limits,
        books=books,
        observation=Observation(
            meters=meters,
            dispatcher=dispatcher,
            engine=engine,
            decoder=decoder,
            admission=admission,
        ),
        admission=admission,
        dispatcher=dispatcher,
        cleanup=cleanup,
        ledger=ledger,
        keyed=keyed,
        finetunes=Finetunes(database, engine, seeds, files, cleanup, ledger, quotas),
        rollouts=Rollouts(
            engine=engine,
            dispatcher=dispatcher,
            handover=handover,
            adapters=adapters,
            pictures=admission.pictures,
            seeds=seeds,
            queue_seconds=config.rollouts_queue_seconds,
            answer_seconds=config.rollouts_answer_seconds,
            linger_seconds=config.rollout_linger_seconds,
            limits=limits,
            meters=meters,
        ),
        training=Training(
            database=database,
            dispatcher=dispatcher,
            handover=handover,
            adapters=adapters,
            pictures=admission.pictures,
            ledger=ledger,
            keyed=keyed,
            work=StepWork(
                database=database,
                engine=engine,
                handover=handover,
                adapters=adapters,
                files=files,
                cleanup=cleanup,
                ledger=ledger,
                meters=meters,
                books=books,
                quotas=quotas,
            ),
            queue_seconds=config.train_queue_seconds,
        ),
        checkpoints=Checkpoints(database, cleanup),
        downloads=Downloads(
            database=database,
            engine=engine,
            dispatcher=dispatcher,
            handover=handover,
            adapters=adapters,
            files=files,
            cleanup=cleanup,
            links=links,
            queue_seconds=config.inference_queue_seconds,
        ),
        metrics=Metrics(database),
        models=models,
        inference=Inference(
            engine=engine,
            dispatcher=dispatcher,
            handover=handover,
            adapters=adapters,
            pictures=admission.pictures,
            seeds=seeds,
            models=models,
            queue_seconds=config.inference_queue_seconds,
        ),
        links=links,
        batches=batches,
    )
