"""The harness of reliability.md section 5: faults from outside, the real SDK, and one checker."""
