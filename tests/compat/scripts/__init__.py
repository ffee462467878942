"""Training scripts as the public writes them: the official SDK, Pillow and the standard library.

Nothing of moontune is imported, so each runs against any server:

    python -m tests.compat.scripts.a01_query_rl --endpoint http://127.0.0.1:8000

Each has a `main(endpoint, ...)` that trains and returns what it saw. Generated pictures stand in
for the data sets of the originals.
"""
