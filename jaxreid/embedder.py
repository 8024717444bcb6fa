"""A trained network as a function from images to vectors.

Synopsis:

  embedder = jaxreid.Embedder('runs/xiv')
  vectors = embedder(images, modality='infrared')      # float32 [N, M, D]

Nothing but the workdir is needed: no dataset, no config file. Images are
uint8 arrays [H, W, 3] or [H, W] or PIL images of any size; they are resized
as in training and normalised inside the network, so leave their values alone.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageOps

from jaxreid import checkpoint, experiment, sharding
from jaxreid.data.source import fit_image
from jaxreid.evaluation.embedding import embed_all
from jaxreid.needed import complete, names, needed_to_embed, shapes
from jaxreid.workdir import read_config

MODALITIES = ('visible', 'infrared', 'gray')


class Embedder:
  """The checkpoint of a workdir, ready to embed images.

  Attributes:
    image_size: (height, width) that images are resized to.
    modalities: which of 'visible', 'infrared' and 'gray' (the gray version of
      a visible image) can be embedded; a slim checkpoint may lack 'gray'.
    test_distance: how the run compares images with several vectors, 'sum' or
      'plain', as `jaxreid.distance.sum_over_modalities` does.
    step: of the checkpoint, in training steps.
    identity: hash of the arrays that embed, of the network's options and the
      size; vectors of embedders with equal identity can be compared.
    workdir: as given.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    batch_size: int = 256,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Reads the checkpoint that the run reports: the best one or the last.

    Only what embeds is read, from an ordinary or a slim workdir.

    Args:
      workdir: of a run of `jaxreid.main`.
      batch_size: images at a time; fewer images are padded to a power of two.
      devices: that batches are spread over; all by default.

    Raises:
      ValueError: if there is no run, no checkpoint, or one of another model.
    """
    self.workdir = pathlib.Path(workdir).expanduser().absolute()
    config = read_config(self.workdir)
    self.image_size: tuple[int, int] = tuple(config.dataset.image_size)
    kind = config.evaluation.test_distance
    self.test_distance: str = 'sum' if kind == 'both' else kind
    # Classes matter to the classifier alone, which embeds nothing.
    self._method = experiment.make_method(config, 2)
    self._shapes = shapes(self._method, self.image_size)
    self._mesh = sharding.make_mesh(devices)
    self._batch_size = batch_size
    self.step, self._arrays, self.modalities = self._read(config)
    self.identity = self._hash(config)
    self._functions: dict[str, Any] = {}

  def __call__(
    self, images: Any, modality: str = 'infrared'
  ) -> Float[np.ndarray, 'n m d']:
    """Embeds images of one modality.

    Args:
      images: uint8 [N, H, W, 3], or a sequence of images of any sizes.
      modality: 'visible', 'infrared' or 'gray'.

    Returns:
      float32 [N, M, D]: M vectors of length 1 for each image; M is 1 but for
      XIV's visible images, which have 2.

    Raises:
      ValueError: on another modality, on pixels that are not uint8, on one
        image that is not in a list, or if there are no images.
    """
    function = self.function(modality)
    # The rows of one image would pass for gray images.
    alone = getattr(images, 'shape', ())[2:] == (3,)
    if alone or isinstance(images, Image.Image):
      raise ValueError('one image is a list of one: embedder([image], ...)')
    pixels = [fit_pixels(image, self.image_size) for image in images]
    if not pixels:
      raise ValueError('there are no images to embed')
    table = np.stack(pixels)
    # Powers of two, so that few sizes compile.
    size = min(self._batch_size, 1 << (len(table) - 1).bit_length())
    return embed_all(
      function,
      table,
      size + -size % self._mesh.size,
      sharding.batch_sharding(self._mesh),
      progress=False,
    )

  def function(self, modality: str) -> jax.tree_util.Partial:
    """What embeds, to be traced into a larger function (`jaxreid.export`).

    Args:
      modality: as above.

    Returns:
      uint8 [B, H, W, 3] of `image_size` -> float [B, M, D]; a tree whose one
      argument are the network's arrays.

    Raises:
      ValueError: on another modality.
    """
    if modality not in self.modalities:
      raise ValueError(
        f'{self.workdir} embeds {self.modalities}, not {modality!r}'
      )
    return jax.tree_util.Partial(self._function(modality), self._arrays)

  def _read(self, config: Any) -> tuple[int, dict[str, Any], tuple[str, ...]]:
    """The step, what embeds, and the modalities for which it is there."""
    used = {
      modality: names(
        needed_to_embed(
          self._method, self._shapes, self.image_size, (modality,)
        )
      )
      for modality in MODALITIES
    }
    keep_best = bool(config.dataset.validation_identities)
    with checkpoint.open_checkpoints(self.workdir, keep_best) as checkpoints:
      step = checkpoint.reported_step(checkpoints, keep_best)
      if step is None:
        raise ValueError(
          f'{self.workdir} has no checkpoint; train there first, or give the '
          'folder of one of its splits'
        )
      there = checkpoint.saved_arrays(checkpoints, step).keys()
      able = tuple(
        m for m in MODALITIES if m != 'gray' or used['gray'] <= there
      )
      place = sharding.replicated(self._mesh)
      wanted = set().union(*(used[modality] for modality in able))
      arrays = checkpoint.restore_part(checkpoints, step, wanted, place)
      return step, arrays, able

  def _hash(self, config: Any) -> str:
    """Of what embeds visible and infrared images: slim or not, it is equal."""
    used = needed_to_embed(
      self._method, self._shapes, self.image_size, MODALITIES[:2]
    )
    wanted = names(used)
    digest = hashlib.sha256()
    options = {
      'method': config.method.to_dict(),
      'backbone': config.backbone.to_dict(),
      'image_size': self.image_size,
    }
    digest.update(json.dumps(options, sort_keys=True, default=list).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(self._arrays):
      name = tuple(str(key.key) for key in path)
      if name in wanted:
        digest.update('.'.join(name).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()

  def _function(self, modality: str) -> Any:
    """One function per modality, so that each compiles once per size."""
    if modality not in self._functions:

      def embed(arrays: Any, images: Array) -> Array:
        # What is missing is not used: the compiler drops it.
        return self._method.embed(
          complete(self._shapes, arrays), images, modality
        )

      self._functions[modality] = embed
    return self._functions[modality]


def fit_pixels(
  image: Any, image_size: tuple[int, int]
) -> UInt8[np.ndarray, 'h w 3']:
  """An array or PIL image as RGB pixels of the size that a network wants.

  A PIL image is turned upright as its EXIF data say.

  Raises:
    ValueError: if an array is not uint8 [H, W, 3] or [H, W].
  """
  if isinstance(image, Image.Image):
    return fit_image(ImageOps.exif_transpose(image), image_size)
  array = np.asarray(image)
  if array.dtype != np.uint8 or not (
    array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
  ):
    raise ValueError(
      'an image is uint8 [H, W, 3] or [H, W] with values 0 to 255 (they are '
      f'normalised inside), not {array.dtype} {list(array.shape)}'
    )
  return fit_image(Image.fromarray(array), image_size)
