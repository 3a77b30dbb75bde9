"""Passes that train: fine-tuning and distillation."""
