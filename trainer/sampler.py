"""The sampler: requests come, wait for memory, get their prompt computed, and grow with all others.

    ticket = sampler.add(request)
    sampler.advance(work_class)      one unit of work: some prompts, or one position for every row
    sampler.take_ended()             what has ended since, an outcome or an error for each ticket

Nothing is refused that can wait. A request waits for a slot of its adapter, for room for the keys
and values of its prompt, and then, rollout by rollout, for those of its answers. It is never
overtaken by a later one of its kind, nor by any while it waits for a slot or its prompt's room;
some single answers may pass rollouts that wait for room, and everybody passes lines of batches.

A unit that fails hits everything that grows; each request is then tried once more alone, so that
only the one that cannot be served is told so.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from contract.errors import RequestRefused
from contract.skills import ChatRequest, Skill, SkillRequest
from contract.work import WorkClass
from trainer.adapters.bank import AdapterBank
from trainer.batching import Row
from trainer.counters import Counters
from trainer.decoder import Decoder, DecodeRequest, Ticket
from trainer.device_memory import OUT_OF_MEMORY
from trainer.drawing import Rollout
from trainer.image_features import ImageFeatures
from trainer.logs import EventLog
from trainer.memory import kv_bytes_per_position
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.prefill import Prefix, prefill_together
from trainer.prompts import prompt_row
from trainer.sample_job import Sampled, SampleJob, SampleRequest
from trainer.sequence import Trace
from trainer.shelf import Shelf
from trainer.skills import SKILLS
from trainer.skills.base import Language

LEAST_ROOM = 4
"""Positions that must be left for an answer: one box and its end."""

MAX_AHEAD = 8
"""Single answers that may grow while rollouts of a call wait for room, at most."""

PROMPTS_IN_A_ROW = 4
"""Units of prompts that may come before single answers that grow have a token again. Rollouts wait
for all prompts: nobody sees their tokens one by one, and the more grow together, the cheaper."""

BATCH_PROMPTS = 4
"""Of batches, in one unit at most: who comes in the middle of it waits for its end."""

BASE = "base"
"""How counters call the base model, which is no finetune."""

log = EventLog(__name__)


@dataclass(frozen=True, kw_only=True)
class _Prefixes:
    """Prompts after their prefill by key, and which of them were computed just now."""

    all: Mapping[Hashable, Prefix]
    new: frozenset[Hashable]


class Sampler:
    """All requests of one device.

    Args:
        prefix_bytes: For the keys and values of prompts, those in use and those that are kept.
        max_prefill_positions: Prompts go through the model together up to this many positions.
    """

    def __init__(
        self,
        model: Moondream,
        language: Language,
        *,
        bank: AdapterBank,
        features: ImageFeatures,
        decoder: Decoder,
        prefix_bytes: int,
        max_prefill_positions: int,
        counters: Counters,
    ):
        self._model = model
        self._language = language
        self._bank = bank
        self._features = features
        self._decoder = decoder
        self._counters = counters
        self._max_prefill_positions = max_prefill_positions
        config = cast("MoondreamConfig", model.config)
        self._position_bytes = kv_bytes_per_position(config, model.text.wte.dtype)
        # Any one prompt has to fit, or it would wait for ever.
        self._prefixes: Shelf[Prefix] = Shelf(
            budget=max(prefix_bytes, config.text.max_context * self._position_bytes),
            size=lambda prefix: prefix.num_bytes,
            name="prefixes",
            counters=counters,
        )
        self._tickets = itertools.count()
        self._waiting: dict[WorkClass, deque[SampleJob]] = {kind: deque() for kind in WorkClass}
        self._alone: deque[SampleJob] = deque()
        self._growing: dict[Ticket, SampleJob] = {}
        self._ended: list[tuple[Ticket, Sampled | Exception]] = []
        self._prompts_in_a_row = 0

    def add(self, wanted: SampleRequest) -> Ticket:
        """Take a request.

        Raises:
            RequestRefused: The prompt leaves no room for an answer.
        """
        job = SampleJob(
            ticket=next(self._tickets),
            wanted=wanted,
            row=prompt_row(wanted.request, wanted.images, self._language),
            arrived=time.perf_counter(),
        )
        self._check_room(job)
        if job.prefix_key not in self._prefixes:
            for image in job.images:
                self._features.prepare(image)
        if wanted.adapter is not None:
            self._bank.prepare(wanted.adapter)
        self._waiting[wanted.work_class].append(job)
        return job.ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request; harmless after its end."""
        for waiting in (*self._waiting.values(), self._alone):
            for job in [job for job in waiting if job.ticket == ticket]:
                waiting.remove(job)
                self._forget(job)
        for decoding, job in list(self._growing.items()):
            if job.ticket == ticket:
                self._release(self._growing.pop(decoding))
                try:
                    self._decoder.cancel(decoding)
                except Exception as error:
                    self._stop_growing(error, is_theirs=False)

    def work(self) -> set[WorkClass]:
        """The kinds of answers that are waiting or growing.

        Lines of batches that grow beside others have their positions with them; their kind is named
        only where one could begin, so that no turn is lost on who has to wait for memory.
        """
        jobs = itertools.chain(*self._waiting.values(), self._alone, self._growing.values())
        kinds = {job.wanted.work_class for job in jobs}
        if len(kinds) > 1 and not self._may_begin_lines():
            kinds.discard(WorkClass.BATCH)
        return kinds

    def _may_begin_lines(self) -> bool:
        """Whether a line of a batch waits, and nobody has to begin before it."""
        if self._alone or self._decoder.num_joining or not self._waiting[WorkClass.BATCH]:
            return False
        heads = [queue[0] for queue in self._waiting.values() if queue]
        return not any(job.is_blocked for job in heads) and not any(
            job.is_alone for job in self._growing.values()
        )

    def advance(self, work_class: WorkClass) -> dict[WorkClass, float]:
        """Do one unit of work, if possible for this kind.

        Returns:
            How much of the unit each kind had; the shares add up to 1.
        """
        if self._prompts_in_a_row >= PROMPTS_IN_A_ROW and any(
            job.wanted.work_class is WorkClass.INFERENCE for job in self._growing.values()
        ):
            return self._tick()
        admitted = self._admit(work_class)
        if admitted is None:
            return self._tick()
        self._prompts_in_a_row += 1
        return {admitted: 1.0}

    def report(self) -> None:
        """Show how many requests wait and grow now."""
        for kind in self._waiting:
            if kind is WorkClass.TRAINING:
                continue
            self._counters.show("moontune_requests_waiting", len(self._waiting[kind]), kind)
        self._decoder.report(self._counters)

    def take_ended(self) -> list[tuple[Ticket, Sampled | Exception]]:
        """What has ended and was not taken yet."""
        ended, self._ended = self._ended, []
        return ended

    def give_up_memory(self) -> None:
        """Free what can be computed again and is not in use."""
        self._prefixes.drop()
        self._features.give_up()
        self._bank.give_up()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # --- admission

    def _admit(self, work_class: WorkClass) -> WorkClass | None:
        """Compute prompts of waiting requests and let them grow; of which kind, if there were any.

        It is the kind that was wanted, unless another waits for memory.
        """
        jobs = self._admissible(work_class)
        if not jobs:
            return None
        started = time.perf_counter()
        try:
            prefixes = self._prefixes_of(jobs)
            self._synchronize()  # or the next tick would be charged for it
        except Exception as error:
            self._recover(jobs, error)
            return jobs[0].wanted.work_class
        seconds = time.perf_counter() - started
        for job in jobs:
            job.prefill_seconds = seconds if job.prefix_key in prefixes.new else 0.0
            if not job.is_alone:
                self._counters.observe(
                    "moontune_admission_seconds", started - job.arrived, job.wanted.work_class
                )
            try:
                self._let_grow(job, prefixes.all[job.prefix_key])
            except Exception as error:
                self._recover([job], error)
        return jobs[0].wanted.work_class

    def _admissible(self, work_class: WorkClass) -> list[SampleJob]:
        """Take out of the queue what can begin now, its adapter leased, up to a prefill's size."""
        growing = self._growing.values()
        if self._alone:
            return [] if growing else self._first_of(self._alone, at_most=1)
        if any(job.is_alone for job in growing):
            return []
        at_most = None
        if self._decoder.num_joining:
            work_class = WorkClass.INFERENCE
            at_most = MAX_AHEAD - sum(job.wanted.work_class is work_class for job in growing)
            if at_most <= 0:
                return []
        heads = [queue[0] for queue in self._waiting.values() if queue]
        blocked = [
            job for job in heads if job.is_blocked and job.wanted.work_class is not WorkClass.BATCH
        ]
        if blocked:  # nobody overtakes who waits for memory
            first = min(blocked, key=_arrival).wanted.work_class
            if at_most is not None and first is not work_class:
                return []
            work_class = first
        if work_class is WorkClass.BATCH:
            at_most = BATCH_PROMPTS
        return self._first_of(self._waiting[work_class], at_most=at_most)

    def _first_of(
        self, waiting: deque[SampleJob], *, at_most: int | None = None
    ) -> list[SampleJob]:
        """Take out of a queue what goes into one pass, each with its adapter leased."""
        taken: list[SampleJob] = []
        while waiting and len(taken) != at_most and self._goes_with(waiting[0], taken):
            try:
                has_slot = self._lease(waiting[0])
            except Exception as error:
                self._recover([waiting.popleft()], error)
                break
            if not has_slot:
                waiting[0].is_blocked = True
                break
            taken.append(waiting.popleft())
        return taken

    def _goes_with(self, job: SampleJob, taken: Sequence[SampleJob]) -> bool:
        """Whether a prompt is known, or can be computed in one pass with those that were taken."""
        new = {other.prefix_key: other for other in taken if other.prefix_key not in self._prefixes}
        if job.prefix_key in self._prefixes or job.prefix_key in new:
            return True
        lengths = [self._num_positions(other) for other in (*new.values(), job)]
        if not self._prefixes.can_take(sum(lengths) * self._position_bytes):
            job.is_blocked = not taken
            return False
        are_alike = all(_are_alike(job.row, other.row) for other in new.values())
        num_computed = len(lengths) * max(lengths)  # the shorter ones are filled up
        return not new or (are_alike and num_computed <= self._max_prefill_positions)

    def _lease(self, job: SampleJob) -> bool:
        """Have the adapter in a slot, if one is free."""
        ref = job.wanted.adapter
        if ref is None:
            return True
        job.adapter = self._bank.lease(ref)
        if job.adapter is None:
            return False
        job.leases.append(lambda: self._bank.release(ref))
        return True

    def _prefixes_of(self, jobs: Sequence[SampleJob]) -> _Prefixes:
        """The prompts of all jobs, from memory or computed now, leased by each job."""
        distinct = {job.prefix_key: job for job in jobs}
        found = {key: self._prefixes.get(key) for key in distinct}
        new = [distinct[key] for key, prefix in found.items() if prefix is None]
        images = [image for job in new for image in job.images]
        if new:
            computed = prefill_together(
                self._model,
                [job.adapter for job in new],
                [job.row for job in new],
                self._features.of(images),
            )
            for job, prefix in zip(new, computed, strict=True):
                found[job.prefix_key] = prefix
                self._counters.count(
                    "moontune_prompt_positions_total", job.wanted.work_class, by=prefix.length
                )
        every = {key: prefix for key, prefix in found.items() if prefix is not None}
        for job in jobs:
            key = job.prefix_key
            if key in self._prefixes or self._prefixes.put(key, every[key]):
                self._prefixes.lease(key)
                job.leases.append(lambda key=key: self._prefixes.release(key))
        return _Prefixes(all=every, new=frozenset(job.prefix_key for job in new))

    def _let_grow(self, job: SampleJob, prefix: Prefix) -> None:
        wanted = job.wanted
        skill = SKILLS[Skill(wanted.request.skill)]
        job.num_prompt_positions = prefix.length
        shared_as = None if job.is_alone else job.shared_as
        if self._decoder.shares(shared_as):
            self._counters.count("moontune_shared_answers_total")
        decoding = self._decoder.add(
            DecodeRequest(
                prefix=prefix,
                adapter=job.adapter,
                new_grammar=lambda: skill.grammar(wanted.request, self._language),
                settings=wanted.settings,
                num_rollouts=wanted.num_rollouts,
                seed=wanted.seed,
                shared_as=shared_as,
                on_draw=lambda rollout: self._has_grown(job, rollout),
            ),
            goes_first=wanted.work_class is WorkClass.INFERENCE,
        )
        self._growing[decoding] = job

    # --- growing

    def _tick(self) -> dict[WorkClass, float]:
        """One position for every row; how much of it was whose."""
        self._prompts_in_a_row = 0
        rows = {
            decoding: sum(r.finish_reason is None for r in self._decoder.rollouts_of(decoding))
            for decoding in self._growing
        }
        try:
            ended = self._decoder.tick()
        except Exception as error:
            kinds = [job.wanted.work_class for job in self._growing.values()]
            self._stop_growing(error, is_theirs=True)
            return {kind: kinds.count(kind) / len(kinds) for kind in kinds}
        shares = self._count_tick(rows)
        for decoding, traces in ended.items():
            job = self._growing.pop(decoding)
            self._release(job)
            self._end(job, traces)
        return shares

    def _count_tick(self, rows: Mapping[Ticket, int]) -> dict[WorkClass, float]:
        num_rows = max(1, sum(rows.values()))
        shares: dict[WorkClass, float] = {}
        for decoding, count in rows.items():
            kind = self._growing[decoding].wanted.work_class
            shares[kind] = shares.get(kind, 0.0) + count / num_rows
        if self._decoder.num_drawn:
            self._counters.count("moontune_decode_ticks_total")
            self._counters.observe("moontune_decode_rows", float(self._decoder.num_drawn))
        return shares

    def _has_grown(self, job: SampleJob, rollout: Rollout) -> None:
        """Note the first token, and tell who listens; a listener's fault is its own."""
        if job.first_token is None:
            job.first_token = time.perf_counter()
            if not job.is_alone:
                self._counters.observe(
                    "moontune_time_to_first_token_seconds",
                    job.first_token - job.arrived,
                    job.wanted.work_class,
                )
        if job.wanted.on_growth is not None and not job.is_unheard:
            try:
                job.wanted.on_growth(rollout)
            except Exception as error:
                job.is_unheard = True
                log.error("delta_not_told", exc_info=error)

    def _end(self, job: SampleJob, traces: tuple[Trace, ...]) -> None:
        now = time.perf_counter()
        first = job.first_token or now
        self._counters.count(
            "moontune_sampled_tokens_total",
            job.wanted.work_class,
            BASE if job.wanted.adapter is None else job.wanted.adapter.finetune_id,
            by=sum(len(trace.actions) for trace in {id(t): t for t in traces}.values()),
        )
        sampled = Sampled(
            traces=traces,
            num_prompt_positions=job.num_prompt_positions,
            prefill_seconds=job.prefill_seconds,
            first_token_seconds=first - job.arrived,
            decode_seconds=now - first,
        )
        self._ended.append((job.ticket, sampled))

    # --- trouble

    def _stop_growing(self, error: Exception, *, is_theirs: bool) -> None:
        """After rows could not go on: none does, and each request begins again.

        Args:
            is_theirs: What failed was their own growth; of a single one it is then the end.
        """
        jobs = list(self._growing.values())
        self._decoder.clear()
        self._growing.clear()
        self._recover(jobs, error, is_theirs=is_theirs)

    def _recover(
        self, jobs: Sequence[SampleJob], error: Exception, *, is_theirs: bool = True
    ) -> None:
        """After a unit failed: each of its requests again by itself, or, of one, its error.

        Raises:
            Exception: The device is lost, and with it all that could be tried.
        """
        if isinstance(error, torch.AcceleratorError):
            raise error
        for job in jobs:
            self._release(job)
        if isinstance(error, OUT_OF_MEMORY):
            self.give_up_memory()
        if len(jobs) == 1 and is_theirs:
            (job,) = jobs
            if job.is_alone or not isinstance(error, OUT_OF_MEMORY):
                self._forget(job)
                self._ended.append((job.ticket, error))
                return
        if jobs:
            log.warning("requests_tried_alone", exc_info=error, num_requests=len(jobs))
        for job in jobs:
            job.is_alone, job.first_token = True, None
            self._alone.append(job)

    def _release(self, job: SampleJob) -> None:
        for release in job.leases:
            release()
        job.leases.clear()
        job.adapter = None
        if self._waiting[WorkClass.BATCH]:
            self._waiting[WorkClass.BATCH][0].is_blocked = False  # there may be room now

    def _forget(self, job: SampleJob) -> None:
        """Give up what was prepared for a request that ends before its prompt was computed."""
        for image in job.images:
            self._features.forget(image)
        if job.wanted.adapter is not None:
            self._bank.forget(job.wanted.adapter)

    def _synchronize(self) -> None:
        device = self._model.text.wte.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def _num_positions(self, job: SampleJob) -> int:
        return job.row.num_positions(self._model.config.vision.num_image_tokens)

    def _check_room(self, job: SampleJob) -> None:
        """Refuse a prompt that leaves no room for an answer."""
        max_context = self._model.config.text.max_context
        room = max_context - self._num_positions(job)
        if room < LEAST_ROOM:
            raise RequestRefused(
                f"The prompt leaves {max(room, 0)} of {max_context} positions for an answer; "
                "shorten it, or send fewer pictures.",
                loc=(*job.wanted.loc, _longest_field(job.wanted.request)),
            )


def _are_alike(row: Row, other: Row) -> bool:
    """Whether two prompts can go through the model in one pass."""
    if row.pictures or other.pictures:
        return False
    return (row.image is None) == (other.image is None)


def _longest_field(request: SkillRequest) -> str:
    """What of a request may be too long."""
    if isinstance(request, ChatRequest):
        return "messages"
    return "object" if hasattr(request, "object") else "question"


def _arrival(job: SampleJob) -> float:
    return job.arrived
