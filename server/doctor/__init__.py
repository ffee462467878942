"""`moontune doctor`: what is wrong with this machine or installation, why, and how to mend it.

Each check is a small function of a `Machine`, which tests replace, and of the configuration. None
changes anything. Those that need torch run in a child, `python -m trainer doctor`.
"""
