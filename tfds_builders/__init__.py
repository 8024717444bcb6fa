"""TFDS builders, one folder per dataset, and the command that runs them."""
