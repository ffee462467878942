"""What strangers send: names, picture URLs, and every place of the API where they can be put."""
