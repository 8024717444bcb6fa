"""Losses of the four papers: pure functions, one value per anchor."""
