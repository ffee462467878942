"""Models on this machine: which are known, how they come here, what they need."""
