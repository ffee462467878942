"""What uvicorn does not do by itself: connections that are watched."""
