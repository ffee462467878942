"""Batches: many requests in one file, answered when nothing else wants the device.

uploads.py   a file comes in parts and becomes a batch
input.py     its lines, read across the parts
lines.py     one line becomes one answer, or one error
work.py      one batch from its first line to its results, committed in chunks
runner.py    which batches are worked on
results.py   what callers see of a batch
cleanup.py   what nobody needs any more
"""
