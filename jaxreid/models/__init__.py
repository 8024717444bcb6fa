"""Flax modules: backbones, streams and heads."""
