"""The rows of the compatibility table, a file for each client."""
