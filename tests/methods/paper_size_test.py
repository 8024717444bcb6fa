"""LUPI at the paper's size: its shapes, its parameters, one real step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from configs import lupi as lupi_config
from jaxreid import experiment, train_state
from jaxreid.models.streams import count_parameters
from jaxreid.train_step import make_train_step


@pytest.fixture(scope='module')
def paper():
  return lupi_config.get_config('dataset=sysu_mm01')


def _paper_batch(make, images=4):
  size = (images, 288, 144, 3)
  return {
    'visible': make(size, jnp.uint8),
    'infrared': make(size, jnp.uint8),
    'label': make((images,), jnp.int32),
  }


@pytest.mark.parametrize(
  ('nonlocal_blocks', 'expected'), [(True, 23_762_063), (False, 23_733_376)]
)
def test_parameters_at_the_papers_size(paper, nonlocal_blocks, expected):
  config = paper.copy_and_resolve_references()
  config.backbone.nonlocal_blocks = nonlocal_blocks
  method = experiment.make_method(config, 395)
  variables = jax.eval_shape(
    method.init, jax.random.key(0), _paper_batch(jax.ShapeDtypeStruct)
  )
  shapes = variables['params']['backbone']
  assert shapes['head']['classifier']['kernel'].shape == (2048, 395)
  assert shapes['head']['neck']['scale'].shape == (2048,)
  # Published: 23.7 million for the two streams that are used at test.
  at_test = [
    stage
    for name, stage in shapes['backbone'].items()
    if not name.startswith('intermediate')
  ]
  assert len(at_test) == 2 * 2 + 3
  assert count_parameters(at_test) == expected
  images = jax.ShapeDtypeStruct((2, 288, 144, 3), jnp.uint8)
  for modality in ('visible', 'infrared', 'gray'):
    embed = functools.partial(method.embed, modality=modality)
    assert jax.eval_shape(embed, variables, images).shape == (2, 1, 2048)


@pytest.mark.slow
def test_one_step_at_the_papers_size(paper):
  method = experiment.make_method(paper, 395)
  optimizers = experiment.make_optimizers(paper, method, 10)
  batch = _paper_batch(lambda size, dtype: jnp.zeros(size, dtype))
  rng = np.random.default_rng(0)
  for name in ('visible', 'infrared'):
    pixels = rng.integers(0, 256, batch[name].shape)
    batch[name] = jnp.asarray(pixels, jnp.uint8)
  batch['label'] = jnp.array([394, 394, 7, 7])
  create = functools.partial(train_state.create, method, optimizers)
  # Compiled without much optimisation: it runs once.
  options = {'xla_backend_optimization_level': 0}
  init = jax.jit(create, compiler_options=options)
  state = init(jax.random.key(0), batch)
  before = jax.tree.map(np.asarray, state)
  step = jax.jit(make_train_step(method, optimizers), donate_argnums=0)
  state, metrics = step(state, batch, jax.random.key(3))
  assert all(np.isfinite(float(value)) for value in metrics.values())
  assert_allclose(metrics['identity'], np.log(395), rtol=0.2)
  changed = [
    bool((np.asarray(a) != b).any())
    for a, b in zip(
      jax.tree.leaves(state.params),
      jax.tree.leaves(before.params),
      strict=True,
    )
  ]
  assert np.mean(changed) > 0.9  # non-local blocks start as the identity
