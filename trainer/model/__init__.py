"""The model: pictures, tokens, coordinates in; hidden states and logits out. See `moondream.py`."""
