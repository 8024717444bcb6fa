"""Rows and uint8 pixels on the host: source, sampler, feed."""
