"""Losses of re-identification: pure functions, one value per anchor.

Synopsis:

  loss = cyclic_triplet(visible, infrared, intermediate, labels).mean()

They take float arrays of any float type and compute in at least float32, work
under `jit`, `grad`, `vmap` and with sharded rows, and have finite gradients
where rows coincide. Arguments that are not arrays are static under `jit`.
"""

from jaxreid.losses.adversarial import (
  cycle_consistency,
  discriminator_loss,
  fake_pairs,
  feature_map_mse,
  generator_loss,
)
from jaxreid.losses.alignment import color_free, color_free_mse
from jaxreid.losses.identity import identity_loss
from jaxreid.losses.modality_gap import (
  cross_center_gap,
  cross_modality_gap,
  modality_respective_gap,
  xiv_loss,
)
from jaxreid.losses.triplet import (
  batch_hard_triplet,
  cyclic_triplet,
  multi_mask_triplet,
  weighted_regularized_triplet,
)

__all__ = [
  'batch_hard_triplet',
  'color_free',
  'color_free_mse',
  'cross_center_gap',
  'cross_modality_gap',
  'cycle_consistency',
  'cyclic_triplet',
  'discriminator_loss',
  'fake_pairs',
  'feature_map_mse',
  'generator_loss',
  'identity_loss',
  'modality_respective_gap',
  'multi_mask_triplet',
  'weighted_regularized_triplet',
  'xiv_loss',
]
