"""The torch worker: tensors, adapters and files; it knows neither HTTP nor SQL."""
