"""What uvicorn does not do by itself: connections that are watched, and dropped when they stall."""
