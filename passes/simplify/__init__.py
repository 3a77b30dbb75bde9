"""Passes that simplify a graph without changing what it computes."""
