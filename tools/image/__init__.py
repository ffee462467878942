"""What docker/Dockerfile says, read and executed without a container engine."""
