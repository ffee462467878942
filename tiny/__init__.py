"""Makes a tiny Moondream from nothing: its data, its tokenizer, its training, its evaluation."""
