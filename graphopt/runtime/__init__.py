"""Execute, compare and time graphs."""
