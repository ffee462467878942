"""Facts and rules of the service; no HTTP, no SQL."""
