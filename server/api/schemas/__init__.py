"""Bodies of requests: their types, limits and defaults."""
