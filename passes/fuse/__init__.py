"""Passes that fuse neighbouring operators into one."""
