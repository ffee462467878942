"""The words that the API process and the trainer process share; standard library only."""
