"""Routes, and how requests and answers look on the wire."""
