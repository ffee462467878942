"""From data URLs to pixels; imports nothing here, because the decoding children import this too."""
