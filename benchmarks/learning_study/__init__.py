"""What the tiny model learns, by task and by option of the train step."""
