"""Passes that place, calibrate and correct quantizers."""
