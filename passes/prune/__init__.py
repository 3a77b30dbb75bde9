"""Passes that remove structure: channels, heads, layers."""
