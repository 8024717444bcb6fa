"""Visible-infrared person re-identification in JAX and Flax.

Train and evaluate with `python -m jaxreid.main --config=configs/lupi.py`, or
import the losses: `from jaxreid.losses import cyclic_triplet`. A trained
network embeds images by `jaxreid.Embedder(workdir)(images)`.
"""

from typing import Any

__version__ = '0.1.0'
__all__ = ['Embedder']


def __getattr__(name: str) -> Any:
  # Late, so that `import jaxreid` costs nothing.
  if name == 'Embedder':
    from jaxreid.embedder import Embedder

    return Embedder
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
