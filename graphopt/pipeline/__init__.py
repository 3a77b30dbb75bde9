"""Passes, their registry, the pipeline text and the manager that runs them."""
