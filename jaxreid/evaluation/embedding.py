"""Images as vectors: every image once, in batches of one fixed size.

Synopsis:

  embed = jax.tree_util.Partial(embed_infrared, variables)
  features = embed_all(embed, images, 256, batch_sharding(mesh), rows=rows)
  infrared = Embedded(rows, features)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int, UInt8

from jaxreid.sharding import from_local, local_rows


class Embedded(NamedTuple):
  """Images embedded by one modality branch.

  Attributes:
    rows: [N] the rows of the records that were embedded.
    features: [N, M, D], M vectors for each of them.
  """

  rows: Int[np.ndarray, 'n']
  features: Float[np.ndarray, 'n m d']


def embed_all(
  embed: Callable[[Array], Array],
  images: UInt8[np.ndarray, 'n h w 3'],
  batch_size: int,
  sharding: jax.sharding.Sharding | None = None,
  rows: Int[np.ndarray, 'r'] | None = None,
  progress: bool | str = True,
) -> Float[np.ndarray, 'r m d']:
  """Embeds images in batches of one fixed size, so that one program serves.

  Args:
    embed: uint8 [B, H, W, 3] -> float [B, M, D], compiled here. Give
      parameters as `jax.tree_util.Partial(function, variables)`: they are then
      arguments of the compiled program, not constants in it, and a later call
      with the same function and other values does not compile again.
    images: the pixel table, in memory or memory-mapped.
    batch_size: images per batch; the last one is padded.
    sharding: how a batch is spread over devices; None for one device.
    rows: which images, in which order; None for all.
    progress: whether to show a progress bar; a string is its label.

  Returns:
    float32 [len(rows), M, D] on the host.

  Raises:
    ValueError: if there are no images, or if the batch cannot be spread evenly.
  """
  rows = np.arange(len(images)) if rows is None else np.asarray(rows)
  if not len(rows):
    raise ValueError('There are no images to embed.')
  if sharding is not None and batch_size % sharding.num_devices:
    raise ValueError(
      f'A batch of {batch_size} images cannot be spread evenly over '
      f'{sharding.num_devices} devices; choose a multiple.'
    )
  if not isinstance(embed, jax.tree_util.Partial):
    embed = jax.tree_util.Partial(embed)
  shown = progress and jax.process_index() == 0
  label = progress if isinstance(progress, str) else 'embed'
  features = []
  pending: Any = None
  with tqdm.tqdm(
    total=len(rows), desc=label, unit='image', disable=not shown
  ) as bar:
    for start in range(0, len(rows), batch_size):
      chosen = rows[start : start + batch_size]
      batch = _put(images, np.resize(chosen, batch_size), sharding)
      # The device works on this batch while the host fetches the one before.
      pending, ready = embed_batch(embed, batch), pending
      if ready is not None:
        features.append(_fetch(ready))
      bar.update(len(chosen))
    features.append(_fetch(pending))
  return np.concatenate(features)[: len(rows)]


def _put(
  images: UInt8[np.ndarray, 'n h w 3'],
  rows: Int[np.ndarray, 'b'],
  place: jax.sharding.Sharding | None,
) -> Array:
  """A batch on the devices; each process reads the rows of its own."""
  if place is None:
    return jnp.asarray(images[rows])
  mine = local_rows(place, len(rows))
  return from_local(place, mine, np.asarray(images[rows[mine]]), len(rows))


def _fetch(features: Array) -> np.ndarray:
  """All rows, also those of other processes."""
  if features.is_fully_addressable:
    return np.asarray(features)
  return multihost_utils.process_allgather(features, tiled=True)


@jax.jit
def embed_batch(embed: Callable[[Array], Array], images: Array) -> Array:
  """The one program of `embed_all`: a batch of uint8 images to float32."""
  return embed(images).astype(jnp.float32)


def flip_averaged(
  embed: Callable[[Array], Float[Array, 'b m d']],
) -> Callable[[Array], Float[Array, 'b m d']]:
  """Embeds an image as the mean of its own and its mirror image's embedding.

  A test-time augmentation that some papers use without saying so; results
  that use it carry it in their names.

  Args:
    embed: uint8 [B, H, W, 3] -> float [B, M, D].

  Returns:
    The same, with vectors of length 1.
  """

  def both(images: Array) -> Array:
    mean = (embed(images) + embed(images[:, :, ::-1])) / 2
    length = jnp.linalg.norm(mean, axis=-1, keepdims=True)
    return mean / jnp.maximum(length, 1e-12)

  return both
