"""Checkpoints of random weights in the published geometry; see `__main__`."""
