"""The pass library: one pass, one file."""
