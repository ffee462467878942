"""Rows whose routes are not built yet, by name, with what they wait for.

They are run and have to fail: one that works has to leave this list.
"""

from __future__ import annotations

NOT_YET: dict[str, str] = {
    **dict.fromkeys(
        (
            "sdk_inference-caption_stream",
            "sdk_inference-query_stream",
            "sdk_inference-segment_stream",
            "node-caption_stream",
            "node-query_stream",
            "node-segment_stream",
            "http_inference-stream",
            "http_inference-stream_segment",
            "http_inference-stream_refused",
            "http_inference-stream_text",
        ),
        "streams",
    ),
    **dict.fromkeys(
        (
            "sdk_inference-chat",
            "sdk_inference-chat_reasoning",
            "sdk_inference-chat_stream",
            "sdk_inference-chat_key",
            "openai-chat",
            "openai-chat_turns",
            "openai-chat_checkpoint",
            "openai-chat_stream",
            "openai-chat_stream_usage",
            "openai-chat_reasoning",
            "openai-chat_unsupported",
            "http_inference-chat",
        ),
        "chat",
    ),
    **dict.fromkeys(
        (
            "openai-models_list",
            "openai-models_retrieve",
            "openai-wrong_key",
            "http_inference-list_models",
        ),
        "the list of models",
    ),
    **dict.fromkeys(("http_batch-whole", "http_batch-quoted", "http_batch-abort"), "batch"),
    **dict.fromkeys(
        ("http_adapters-life", "http_adapters-training", "http_adapters-checkpoints"),
        "the adapters form",
    ),
}
