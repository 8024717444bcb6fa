import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid.evaluation.embedding import embed_all, flip_averaged


def _images(n=21):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (n, 4, 2, 3)).astype(np.uint8)


def _project(weights, images):
  flat = images.reshape(len(images), -1).astype(jnp.float32) / 255
  return jnp.stack([flat @ weights, flat @ weights[::-1]], axis=1)


def _weights(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(24, 5)).astype(np.float32)


@pytest.mark.parametrize('batch_size', [4, 7, 64])
def test_embed_all_pads_and_crops(batch_size):
  embed = functools.partial(_project, _weights())
  features = embed_all(embed, _images(), batch_size, progress=False)
  assert features.dtype == np.float32
  assert_allclose(features, embed(jnp.asarray(_images())), rtol=1e-5)


def test_embed_all_rows_keep_their_order():
  embed = functools.partial(_project, _weights())
  rows = np.array([20, 3, 3, 0, 11])
  features = embed_all(embed, _images(), 2, rows=rows, progress='gray')
  assert_allclose(features, embed(jnp.asarray(_images()[rows])), rtol=1e-5)


def test_embed_all_sharded():
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  embed = jax.tree_util.Partial(_project, _weights())
  features = embed_all(embed, _images(), 8, sharding, progress=False)
  assert_allclose(features, embed(jnp.asarray(_images())), rtol=1e-5)
  with pytest.raises(ValueError, match=r'12 images .* over 8 devices'):
    embed_all(embed, _images(), 12, sharding)


def test_embed_all_compiles_once_for_other_parameters():
  traces = []

  def counted(weights, images):
    traces.append(1)
    return _project(weights, images)

  for seed in range(3):
    embed = jax.tree_util.Partial(counted, _weights(seed))
    features = embed_all(embed, _images(), 8, progress=False)
    expected = _project(_weights(seed), jnp.asarray(_images()))
    assert_allclose(features, expected, rtol=1e-5)
  assert len(traces) == 1


def test_embed_all_needs_images():
  with pytest.raises(ValueError, match='no images'):
    embed_all(functools.partial(_project, _weights()), _images(0), 4)


def test_flip_averaged_is_the_normalised_mean_of_both():
  images, weights = jnp.asarray(_images()), _weights()
  found = flip_averaged(functools.partial(_project, weights))(images)
  for k, image in enumerate(_images()):
    mirrored = np.stack([row[::-1] for row in image])
    for m, matrix in enumerate((weights, weights[::-1])):
      total = sum(x.reshape(-1) / 255.0 @ matrix for x in (image, mirrored))
      expected = total / np.sqrt(np.sum(total**2))
      assert_allclose(found[k, m], expected, rtol=1e-4, atol=1e-5)
