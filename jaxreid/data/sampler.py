"""Which rows a step trains on: a pure function of (seed, step).

Synopsis:

  sampler = IdentitySampler(records, identities=8, images_per_identity=4)
  rows = sampler[step]   # {'visible': [32], 'infrared': [32], 'label': [32]}

The step number is the data position, so a checkpoint holds no iterator and a
restart continues exactly.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxreid.data.source import INFRARED, VISIBLE, Records


def check_batch(identities: int, images_per_identity: int):
  """Raises ValueError on a batch without pairs or without negatives."""
  if identities < 2 or images_per_identity < 2:
    raise ValueError(
      'a batch needs at least 2 identities and 2 images of each for the '
      f'triplet losses, not batch.identities={identities} and '
      f'batch.images_per_identity={images_per_identity}'
    )


@dataclasses.dataclass(frozen=True)
class IdentitySampler:
  """P identities without replacement, K images of each per modality.

  Row i of both modalities shows the same person. The images of one identity
  in one batch are different ones; batches are independent of each other.

  Attributes:
    records: the labels of the table's rows.
    identities: P, identities per step.
    images_per_identity: K, images of each identity per modality.
    seed: of all draws.
    held_out: identities never drawn (kept for validation).

  Raises:
    ValueError: if the data cannot serve P or K, naming the identity.
  """

  records: Records
  identities: int
  images_per_identity: int
  seed: int = 0
  held_out: tuple[int, ...] = ()
  _rows: dict[str, list[np.ndarray]] = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    check_batch(self.identities, self.images_per_identity)
    if self.identities > self.num_classes:
      raise ValueError(
        f'batch.identities={self.identities}, but the training data has '
        f'{self.num_classes} identities; lower it'
      )
    rows = {
      name: [self._rows_of(identity, modality) for identity in self.names]
      for name, modality in (('visible', VISIBLE), ('infrared', INFRARED))
    }
    for name, of_identity in rows.items():
      fewest = int(np.argmin([len(r) for r in of_identity]))
      count = len(of_identity[fewest])
      if count < self.images_per_identity:
        what = 'lower it' if count else 'take it off the training list'
        raise ValueError(
          f'batch.images_per_identity={self.images_per_identity}, but '
          f'identity {self.names[fewest]} has {count} {name} training images; '
          f'{what}'
        )
    object.__setattr__(self, '_rows', rows)

  @property
  def names(self) -> list[int]:
    """The dataset's identity numbers, sorted; label i is names[i]."""
    return sorted(set(self.records.identity.tolist()) - set(self.held_out))

  @property
  def num_classes(self) -> int:
    """Identities trained on."""
    return len(self.names)

  @property
  def batch_size(self) -> int:
    """Images per modality and step, P x K."""
    return self.identities * self.images_per_identity

  @property
  def steps_per_epoch(self) -> int:
    """Ceil(images of the larger modality / images per modality and step)."""
    larger = max(
      sum(len(rows) for rows in of_identity)
      for of_identity in self._rows.values()
    )
    return -(-larger // self.batch_size)

  def __getitem__(self, step: int) -> dict[str, Any]:
    """Rows of both modalities and labels, int32 [P x K] each."""
    rng = np.random.default_rng((self.seed, step))
    labels = rng.choice(
      len(self._rows['visible']), self.identities, replace=False
    )
    rows = {
      modality: np.concatenate(
        [
          rng.choice(of_identity[label], self.images_per_identity, False)
          for label in labels
        ]
      ).astype(np.int32)
      for modality, of_identity in self._rows.items()
    }
    label = np.repeat(labels, self.images_per_identity).astype(np.int32)
    return {**rows, 'label': label}

  def _rows_of(self, identity: int, modality: int) -> np.ndarray:
    mine = self.records.identity == identity
    return np.flatnonzero(mine & (self.records.modality == modality))
