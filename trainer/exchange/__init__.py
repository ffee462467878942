"""Adapters that leave and arrive: the exchange file, a PEFT directory, merged weights.

`outgoing` and `incoming` are the two verbs; each measures on fixed cases that the model computes
the same on both sides of the file, and refuses what does not.
"""
