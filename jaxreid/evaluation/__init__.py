"""Protocols, ranking and the evaluation that joins them."""
