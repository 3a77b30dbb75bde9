"""The pattern language and the driver that applies its rules."""
