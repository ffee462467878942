"""What each error code means, and what to do about it: for docs/errors.md and the OpenAPI document.

A code without an entry fails a test, and so does an entry without a code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from server.domain import errors
from server.domain.errors import ServiceError

RESENT = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
"""The statuses on which the SDK sends the same call again by itself, up to ten times."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One code, in sentences for who meets it: when it comes, and what helps."""

    when: str
    advice: str


CATALOGUE: dict[str, Entry] = {
    "rate_limited": Entry(
        when="The key, or with a wrong key the address, made more calls than it may in a minute, or"
        " more rollouts at once.",
        advice="Send it again after `Retry-After` seconds (the SDK does), or ask for a key of"
        " higher limits.",
    ),
    "internal_error": Entry(
        when="Something that nobody foresaw went wrong. Nothing was changed.",
        advice="Look into the server's log for the `request_id`, and report what it says.",
    ),
    "storage_full": Entry(
        when="A disk of the server is full, or would have less left than `min_free_bytes`."
        " Nothing was changed.",
        advice="Free some space (the message says how much is needed) and send the call again;"
        " no restart is needed.",
    ),
    "invalid_api_key": Entry(
        when="No key was sent, or one that the server does not know.",
        advice="Send the key in `X-Moondream-Auth`, or as `Authorization: Bearer`. The SDK takes it"
        " as `api_key`.",
    ),
    "forbidden": Entry(
        when="The key is known and may not do this, a quota of its account is used up, or, in open"
        " mode, the `Host` header names another machine.",
        advice="Use a key of a wider scope; delete finetunes or have the quota raised; or add the"
        " name to `MOONTUNE_ALLOWED_HOSTS`.",
    ),
    "route_not_found": Entry(
        when="There is nothing at this address.",
        advice="Compare the path with `/openapi.json`; the SDK's `endpoint` ends in `/v1` or"
        " `/v1/tuning`.",
    ),
    "finetune_not_found": Entry(
        when="The account has no finetune of this id: it was deleted, never made, or belongs to"
        " another account.",
        advice="List the finetunes, and check that the key is the one that made it.",
    ),
    "checkpoint_not_found": Entry(
        when="The step was never saved, or its checkpoint was deleted.",
        advice="Save it while it is the newest step, or use one of the saved steps that the message"
        " lists.",
    ),
    "no_checkpoint": Entry(
        when="There is nothing to save before the first train step.",
        advice="Train at least one step before saving.",
    ),
    "model_not_found": Entry(
        when="The `model` is neither the base model nor of the form `{base}/{finetune_id}@{step}`.",
        advice="Leave it out for the base model, or take the name from `GET /v1/models`.",
    ),
    "method_not_allowed": Entry(
        when="The address exists and does not take this method.",
        advice="The header `Allow` lists the methods that it takes.",
    ),
    "rank_conflict": Entry(
        when="A finetune of this name exists with another rank.",
        advice="Choose another name, or ask for the rank that it has.",
    ),
    "idempotency_key_reused": Entry(
        when="An `Idempotency-Key` came with another body than the first time.",
        advice="Use a new key for each new call; repeat a key only with the same bytes.",
    ),
    "step_conflict": Entry(
        when="`expected_step` is not the step that the finetune is at.",
        advice="Read the current step (the message names it): another caller trained, or an answer"
        " was lost.",
    ),
    "base_model_mismatch": Entry(
        when="The finetune was trained on another base model than the one that is loaded.",
        advice="Start the server with that model, or make a new finetune on this one.",
    ),
    "origin_conflict": Entry(
        when="A finetune of this name exists and began from other weights.",
        advice="Choose another name.",
    ),
    "state_damaged": Entry(
        when="A file that this call needs is missing or damaged on the server's disk, or the"
        " database is damaged. It was not used, and nothing was changed.",
        advice="Run `moontune verify` on the server: it names the file and what needs it. Restore a"
        " backup, or begin a finetune from a saved step that is whole.",
    ),
    "checkpoint_deleted": Entry(
        when="The checkpoint was deleted; it cannot be downloaded any more.",
        advice="Download another saved step.",
    ),
    "body_too_large": Entry(
        when="The body is larger than this call may have (`max_body_bytes`,"
        " `max_train_body_bytes`), or needs too much memory.",
        advice="Send fewer groups or smaller pictures at once.",
    ),
    "image_too_large": Entry(
        when="A picture has more bytes or pixels than `max_image_bytes` or `max_image_pixels`.",
        advice="Scale it down before sending; the model sees at most 378 x 378 a crop.",
    ),
    "batch_not_found": Entry(
        when="The account has no batch and no upload of this id: it was aborted, is past its"
        " retention, or belongs to another account.",
        advice="List the batches; results are kept for `batch_results_seconds`, a week.",
    ),
    "invalid_model": Entry(
        when="The `model` of a batch is neither the base model nor of the form"
        " `{base}/{finetune_id}@{step}`.",
        advice="Leave it out for the base model, or take the name from `GET /v1/models`.",
    ),
    "limit_exceeded": Entry(
        when="A batch has more bytes, lines, or bytes in one line than a batch may have.",
        advice="Split it into several batches.",
    ),
    "batch_too_large": Entry(
        when="The train step does not fit into the accelerator's memory, whatever the load.",
        advice="Send fewer groups, fewer rollouts or shorter answers in one step.",
    ),
    "validation_error": Entry(
        when="A field is missing, of the wrong kind or out of range.",
        advice="`detail` lists each fault with its place; nothing was done.",
    ),
    "unknown_skill": Entry(
        when="The `skill` of a request is none that this call knows.",
        advice="Use `query`, `point` or `detect`.",
    ),
    "invalid_json": Entry(
        when="The body is not JSON, not in UTF-8, not an object, or holds NaN or Infinity.",
        advice="Serialise it with a JSON library; replace numbers that are not finite.",
    ),
    "image_url_scheme": Entry(
        when="An `image_url` is not a data URL. The server fetches nothing.",
        advice="Send the picture itself as `data:image/jpeg;base64,...`; the SDK does it for PIL"
        " images.",
    ),
    "image_decode_failed": Entry(
        when="A picture is damaged, cut off, or of a format that is not JPEG, PNG, WebP or GIF.",
        advice="Open it with Pillow and save it anew.",
    ),
    "request_crashes_worker": Entry(
        when="The worker died twice while it worked on this very request.",
        advice="Look into the worker's log for the reason, and send something else; the same bytes"
        " are refused for a while.",
    ),
    "unsupported_parameter": Entry(
        when="A parameter asks for what is not served here.",
        advice="Leave it out.",
    ),
    "caller_left": Entry(
        when="The caller closed its connection before the answer; only the log sees it.",
        advice="Nothing: a resend is judged afresh.",
    ),
    "not_supported": Entry(
        when="The loaded model lacks this skill, or cannot be trained in it.",
        advice="Load a model that has it; `GET /readyz` names the loaded one.",
    ),
    "overloaded": Entry(
        when="The call waited for its turn, for room, a worker or the database as long as it may."
        " Nothing was changed.",
        advice="Send it again after `Retry-After` seconds (the SDK does), with fewer calls at once"
        " if it stays.",
    ),
    "starting": Entry(
        when="The model is still being loaded.",
        advice="Wait for `/readyz` to answer 200; the SDK sends the call again by itself.",
    ),
    "worker_unavailable": Entry(
        when="The worker ended and is being started again, or the server is about to stop.",
        advice="Send the call again; if it stays, `moontune status` and the worker's log say why.",
    ),
}


def classes() -> Iterator[type[ServiceError]]:
    """All refusals, in order of their status and code."""
    found = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ServiceError) and value is not ServiceError
    ]
    return iter(sorted(found, key=lambda kind: (kind.status, kind.code)))


def is_resent(kind: type[ServiceError]) -> bool:
    """Whether the SDK sends a call that was refused so again by itself."""
    return kind.status in RESENT
