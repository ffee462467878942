"""What a GPU computes, and how fast; see `__main__`."""
