"""Which arrays a function is said to need, and which it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lupi, tsgan, xiv
from jaxreid import experiment, needed


def toy():
  shape = jax.ShapeDtypeStruct((3, 3), np.float32)
  return {'a': {'w': shape, 'b': shape}, 'c': {'w': shape}, 'd': {}}


def test_what_is_not_used_is_told_apart():
  def function(variables, x):
    nobody_wants = jnp.linalg.norm(variables['c']['w'])
    del nobody_wants
    inner = jax.jit(lambda w, b: w + 0 * jnp.sum(b * 0).astype(int))
    unused_inside = jax.jit(lambda w, b: (w @ w, b @ w))
    y, _ = unused_inside(variables['a']['w'], variables['a']['b'])
    return y + x + inner(variables['a']['w'], jnp.ones(3))

  x = np.zeros((3, 3), np.float32)
  used = needed.needed(function, toy(), x)
  assert used == {'a': {'w': True, 'b': False}, 'c': {'w': False}, 'd': {}}
  assert needed.names(used) == {('a', 'w')}


def test_nothing_or_all():
  none = needed.needed(lambda variables: jnp.ones(3), toy())
  assert needed.names(none) == set()
  everything = needed.needed(
    lambda v: sum(x.sum() for x in jax.tree.leaves(v)), toy()
  )
  assert len(needed.names(everything)) == 3


@pytest.mark.parametrize('file', [lupi, tsgan, xiv])
def test_of_a_method(file):
  config = file.get_config()
  config.backbone.nonlocal_blocks = False
  method = experiment.make_method(config, 5)
  size = (24, 12)
  variables = needed.shapes(method, size)
  everything = needed.names(jax.tree.map(lambda x: True, variables))
  used = needed.names(
    needed.needed_to_embed(method, variables, size, ('visible', 'infrared'))
  )
  spared = {'.'.join(path) for path in everything - used}
  assert 'params.backbone.head.classifier.kernel' in spared
  if file is lupi:
    assert all('intermediate_' in n or 'classifier' in n for n in spared)
    assert any('intermediate_' in n for n in spared)
    gray = needed.needed_to_embed(method, variables, size)
    assert any(
      'intermediate_' in path[-2] or 'intermediate_' in str(path)
      for path in needed.names(gray)
    )
  else:
    # Both are tested by the feature before the BNNeck.
    of_backbone = {n for n in spared if n.split('.')[1] == 'backbone'}
    assert all('classifier' in n or 'neck' in n for n in of_backbone)
    others = {n.split('.')[1] for n in spared - of_backbone}
    gan = {'generator', 'discriminator', 'teacher'} if file is tsgan else set()
    assert others == gan
    assert {path[1] for path in used} == {'backbone'}
