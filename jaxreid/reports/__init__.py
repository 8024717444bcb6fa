"""Reports and model cards: what a run was, as pages for people."""
