"""A compiler for neural-network graphs."""
