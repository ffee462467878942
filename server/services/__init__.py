"""What happens, in the words of the domain."""
