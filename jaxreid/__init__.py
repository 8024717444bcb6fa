"""Visible-infrared person re-identification in JAX and Flax.

Train and evaluate with `python -m jaxreid.main --config=configs/lupi.py`, or
import the losses: `from jaxreid.losses import cyclic_triplet`.
"""

__version__ = '0.1.0'
