"""A checkpoint as it is published, from its files to the first answer and the first train step."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from benchmarks.gpu.checkpoint_writer import start_writer, wait_for_checkpoint
from benchmarks.gpu.large_model import NUM_ROLLOUTS, QUERY, RANK, LargeModel, of_tokens
from benchmarks.gpu.measuring import GIGA, peak_memory, seconds_of, timed
from benchmarks.gpu.report import Part, Report
from contract.engine import Answer
from trainer.canary import sing
from trainer.loading import load


def check_from_disk(report: Report, *, scale: str, device: str, directory: Path) -> None:
    """Needs `hardware`. The files are removed as soon as they are loaded."""
    checkpoint = directory / "checkpoint"
    writer = start_writer(checkpoint, scale=scale, device=device)
    try:
        report.run("write", partial(wait_for_checkpoint, writer, checkpoint), is_verdict=True)
    finally:
        writer.kill()
        writer.wait()
    work = partial(_load, report, device, checkpoint)
    large = report.run("load", work, is_verdict=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
    if large is not None:
        report.run("answer", partial(_answer, report, large), is_verdict=True)
        report.run("first train step", partial(_first_step, report, large), is_verdict=True)


def _load(report: Report, device: str, checkpoint: Path, part: Part) -> LargeModel:
    """Through the real loader; the files were written a moment ago, so they come from memory."""
    with peak_memory(part):
        loaded, seconds = timed(
            lambda: load(checkpoint, name="random", device=device, dtype="bfloat16")
        )
    part["load_seconds"] = seconds
    part["num_parameters"] = loaded.info.num_parameters
    large = LargeModel(loaded, checkpoint.parent / "from-disk", report.parts["hardware"])
    part["first_answer_seconds"] = seconds_of(lambda: sing(large.engine))
    report.line(
        f"load {loaded.info.num_parameters / GIGA:.2f} B: {seconds:.1f} s (SHA-256 alone "
        f"{report.parts['write']['digest_seconds']:.1f} s), peak {part['peak_gb']:.1f} GB"
    )
    return large


def _answer(report: Report, large: LargeModel, part: Part) -> None:
    """One answer, from the request to the words, beside what the engine itself reports of it."""
    command = Answer(adapter=large.finetune.adapter, request=QUERY, settings=of_tokens(), seed=11)
    with peak_memory(part):
        answered, seconds = timed(lambda: large.engine.answer(command, large.pictures[:1]))
    part["answer_seconds"] = seconds
    part["num_tokens"] = answered.output_tokens
    part["prefill_ms"] = answered.prefill_time_ms
    part["decode_ms"] = answered.decode_time_ms
    report.line(
        f"answer of {answered.output_tokens} tokens: {1e3 * seconds:.1f} ms; as reported: prefill "
        f"{part['prefill_ms']:.1f} ms, decode {part['decode_ms']:.1f} ms; "
        f"peak {part['peak_gb']:.1f} GB"
    )


def _first_step(report: Report, large: LargeModel, part: Part) -> None:
    """The first train step of a finetune: a fresh adapter and optimizer, nothing warm."""
    groups, pictures = large.groups(1)
    with peak_memory(part):
        trained, seconds = timed(lambda: large.finetune.train_step(groups, pictures, lr=1e-5))
    part |= {"rank": RANK, "step_seconds": seconds, "grad_norm": trained.grad_norm}
    if not trained.applied:
        raise RuntimeError(f"the step was not applied: {trained.skip_reason}")
    report.line(
        f"first train step at rank {RANK}, 1 x {NUM_ROLLOUTS} rollouts: {seconds:.2f} s, "
        f"gradient norm {trained.grad_norm:.3g}, peak {part['peak_gb']:.1f} GB"
    )
