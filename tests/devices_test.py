"""Eight simulated devices compute what one does, in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxreid import collectives, optim, sharding, train_state
from jaxreid.evaluation.embedding import embed_all
from jaxreid.methods.baseline import baseline
from jaxreid.methods.dual_swin import dual_swin
from jaxreid.methods.lupi import lupi
from jaxreid.methods.tsgan import tsgan
from jaxreid.methods.xiv import xiv
from jaxreid.models.resnet import BasicBlock, ResidualStage, Stem
from jaxreid.train_step import make_train_step

OPTIONS = {'xla_backend_optimization_level': 0}  # they run a few times only
OPTIMIZERS = {'backbone': optim.sgd(0.02)}
METHODS = {
  'baseline': functools.partial(baseline, split=1),
  'lupi': functools.partial(lupi, split=1),
  'xiv': xiv,
  # On stages with BatchNorm: harder than a Swin's.
  'dual_swin': functools.partial(dual_swin, split=1),
}
IDENTITIES, IMAGES, SIZE = 4, 4, (32, 16)
CLASSES = 7
STEPS = 3


def _stages(dtype):
  return (
    lambda name: Stem(4, dtype=dtype, name=name),
    # With a non-local block: its BatchNorm, too, is over the whole batch.
    lambda name: ResidualStage(BasicBlock, 8, 1, 2, 1, dtype=dtype, name=name),
  )


def _method(name, dtype):
  return METHODS[name](CLASSES, _stages(dtype), padding=2)


def _batch(seed):
  rng = np.random.default_rng(seed)
  count = IDENTITIES * IMAGES
  images = rng.integers(0, 256, (2, count, *SIZE, 3)).astype(np.uint8)
  # Identities look alike, so that hard positives and negatives vary.
  images[:, : count // 2] //= 2
  return {
    'visible': images[0],
    'infrared': images[1],
    'label': np.repeat(rng.permutation(7)[:IDENTITIES], IMAGES).astype(
      np.int32
    ),
  }


def _wide(tree):
  return jax.tree.map(
    lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
  )


def _jit(step, whole):
  return jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(whole, whole),
    compiler_options=OPTIONS,
  )


def _first(method):
  """The first state in float64, its non-local block not the identity."""
  create = functools.partial(train_state.create, method, OPTIMIZERS)
  made = jax.jit(create, compiler_options=OPTIONS)(
    jax.random.key(0), jax.tree.map(jnp.asarray, _batch(0))
  )
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x + 0.1 if 'nonlocal' in str(path) else x, _wide(made)
  )


class Run:
  """A few steps of a method and its embeddings, on a number of devices."""

  def __init__(self, method, first, devices):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    # Copied: a step donates its state.
    state = jax.device_put(jax.tree.map(np.asarray, first), whole)
    batches = [jax.device_put(_batch(i), rows) for i in range(STEPS)]
    key = jax.device_put(jax.random.key(4), whole)
    step = _jit(make_train_step(method, OPTIMIZERS), whole)
    self.metrics = []
    for batch in batches:
      state, metrics = step(state, batch, key)
      self.metrics.append(jax.tree.map(float, metrics))
    self.state = state
    embed = jax.tree_util.Partial(
      functools.partial(method.embed, modality='infrared'), state.variables
    )
    # 13 images: the second batch is padded.
    images = _batch(9)['infrared'][:13]
    self.embeddings = embed_all(embed, images, 8, rows, progress=False)


@pytest.fixture(scope='module', params=METHODS)
def runs(request):
  with jax.enable_x64(True):
    method = _method(request.param, jnp.float64)
    first = _first(method)
    yield Run(method, first, 1), Run(method, first, 8)


def test_losses_and_parameters_are_equal(runs):
  one, eight = runs
  for left, right in zip(one.metrics, eight.metrics, strict=True):
    assert left.keys() == right.keys()
    for name in left:
      assert_allclose(left[name], right[name], rtol=1e-9, err_msg=name)
  assert one.metrics[0]['loss'] != one.metrics[-1]['loss']
  left, right = (
    jax.tree_util.tree_leaves_with_path(jax.device_get(run.state))
    for run in runs
  )
  for (path, a), (_, b) in zip(left, right, strict=True):
    if np.issubdtype(a.dtype, np.floating):
      assert a.dtype == np.float64
    assert_allclose(
      a, b, rtol=1e-8, atol=1e-10, err_msg=jax.tree_util.keystr(path)
    )
  assert len(jax.tree.leaves(eight.state)[0].sharding.device_set) == 8


def test_embeddings_are_equal(runs):
  one, eight = (run.embeddings for run in runs)
  assert one.shape == (13, 1, 8)
  assert np.abs(one[0] - one[1]).max() > 1e-3
  # The host has them in float32.
  assert_allclose(one, eight, rtol=1e-6, atol=1e-7)


# Their equality is tested where three players and a teacher are.
SPREAD = {
  **METHODS,
  'tsgan': functools.partial(
    tsgan,
    generator_width=4,
    generator_blocks=1,
    generator_kernel=3,
    discriminator_width=4,
  ),
}


def _compiled(method, mesh):
  """The first state's shapes, and the collectives of a step."""
  rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

  def shapes(tree, place):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
    )

  optimizers = {player: optim.sgd(0.02) for player in method.losses}
  key = jax.random.key(0)
  batch = jax.tree.map(jnp.asarray, _batch(0))
  create = functools.partial(train_state.create, method, optimizers)
  state = jax.eval_shape(create, key, batch)
  program = (
    _jit(make_train_step(method, optimizers), whole)
    .lower(shapes(state, whole), shapes(batch, rows), shapes(key, whole))
    .compile()
    .as_text()
  )
  return state, collectives.read(program, mesh.size)


def _sides(shape):
  """A shape, whatever the order of its axes."""
  return tuple(sorted(n for n in shape if n > 1))


def _is_vector_per_image(shape):
  """[N, D], for embeddings of 8 dimensions or logits of any modality."""
  sides = _sides(shape)
  images = IDENTITIES * IMAGES
  return len(sides) <= 2 and any(
    math.prod(sides) == images * sets * width
    for sets in range(1, 7)
    for width in (1, 8, CLASSES)
  )


@pytest.mark.parametrize('name', SPREAD)
def test_no_row_and_no_feature_map_changes_its_device(name):
  # In float32: XLA spreads the gradient of a float64 max-pooling otherwise.
  method = SPREAD[name](CLASSES, _stages(jnp.float32), padding=2)
  state, found = _compiled(method, sharding.make_mesh())
  assert {c.kind for c in found} == {'all-reduce', 'all-gather'}
  gradients = {_sides(x.shape) for x in jax.tree.leaves(state.params)}
  for collective in found:
    for shape in collective.shapes:
      if collective.kind == 'all-gather':  # for mining over all pairs
        assert _is_vector_per_image(shape), collective
      else:
        assert (
          len(_sides(shape)) <= 1  # statistics, scalars, labels
          or _sides(shape) in gradients
          or _is_vector_per_image(shape)
        ), collective
