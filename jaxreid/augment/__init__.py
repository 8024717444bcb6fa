"""Augmentations on the device: pure functions, key first."""
