import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxreid.models.head import Head
from jaxreid.models.resnet import (
  BasicBlock,
  ResidualStage,
  Stem,
  resnet_stages,
)
from jaxreid.models.streams import (
  EmbeddingNetwork,
  MultiStream,
  count_parameters,
  fold,
  stream_order,
  unfold,
)

STREAMS = ('visible', 'infrared', 'intermediate')


class _Bias(nn.Module):
  """A stage that adds a number of its own, so that its use can be seen."""

  @nn.compact
  def __call__(self, x, train):
    del train
    return x + self.param('bias', nn.initializers.zeros, ())


def _bias_network(split, stages=3):
  factories = tuple(lambda name: _Bias(name=name) for _ in range(stages))
  return MultiStream(factories, split, STREAMS)


def _images(n=2, size=(32, 16), streams=STREAMS):
  keys = jax.random.split(jax.random.key(7), len(streams))
  return {
    s: jax.random.normal(k, (n, *size, 3))
    for s, k in zip(streams, keys, strict=True)
  }


def _network(split, dtype=jnp.float32):
  stages = (
    lambda name: Stem(4, dtype=dtype, name=name),
    lambda name: ResidualStage(BasicBlock, 4, 1, 1, dtype=dtype, name=name),
    lambda name: ResidualStage(BasicBlock, 8, 1, 2, dtype=dtype, name=name),
  )
  return EmbeddingNetwork(MultiStream(stages, split, STREAMS), Head(5))


def _init(network, images):
  return jax.jit(lambda key: network.init(key, images, train=False))(
    jax.random.key(0)
  )


@pytest.fixture(scope='module')
def initialised():
  network, images = _network(1), _images()
  return network, images, _init(network, images)


def _train(network, variables, images):
  @jax.jit
  def train(variables, images):
    return network.apply(variables, images, train=True, mutable=['batch_stats'])

  return train(variables, images)


def test_fold_interleaves_and_unfold_undoes_it():
  maps = [jnp.array([[1.0], [2.0]]), jnp.array([[10.0], [20.0]])]
  folded = fold(maps)
  assert folded[:, 0].tolist() == [1, 10, 2, 20]
  unfolded = unfold(folded, ['a', 'b'])
  assert_allclose(unfolded['a'], maps[0])
  assert_allclose(unfolded['b'], maps[1])


def test_order():
  assert stream_order(STREAMS, {'infrared': 0, 'visible': 0}) == [
    'visible',
    'infrared',
  ]
  assert stream_order(('b',), ['z', 'b', 'a']) == ['b', 'a', 'z']


@pytest.mark.parametrize('split', [0, 1, 2, 3])
def test_names_rows_and_use_of_private_stages(split):
  network = _bias_network(split)
  images = _images()
  params = network.init(jax.random.key(0), images, train=False)['params']
  private = {f'{s}_stage{i}' for s in STREAMS for i in range(split)}
  assert set(params) == private | {f'stage{i}' for i in range(split, 3)}
  # Distinct powers of two: the sum says which stages were passed.
  params = {k: {'bias': 2.0**i} for i, k in enumerate(sorted(params))}
  outputs = network.apply({'params': params}, images, train=False)
  assert len(outputs) == max(3 - split, 1)
  for s, stream in enumerate(STREAMS):
    names = [f'{stream}_stage{i}' for i in range(split)]
    names += [f'stage{i}' for i in range(split, 3)]
    bias = sum(params[name]['bias'] for name in names)
    for n in range(2):
      expected = images[stream][n] + bias
      assert_allclose(outputs[-1][n * 3 + s], expected, rtol=1e-6)


def test_errors():
  images = _images()
  with pytest.raises(ValueError, match='0 to 3'):
    _bias_network(4).init(jax.random.key(0), images, train=False)
  with pytest.raises(ValueError, match='Unknown stream gray'):
    gray = {**images, 'gray': images['visible']}
    _bias_network(1).init(jax.random.key(0), gray, train=False)
  with pytest.raises(ValueError, match='intermediate missing'):
    partial = {s: images[s] for s in STREAMS[:2]}
    _bias_network(1).init(jax.random.key(0), partial, train=False)
  with pytest.raises(ValueError, match='No images'):
    _bias_network(1).apply({'params': {}}, {}, train=False)


def test_without_private_stages_any_stream_is_accepted():
  network = _bias_network(0)
  images = _images(streams=('x', 'visible'))
  variables = _init(network, images)
  outputs = network.apply(variables, images, train=False)
  assert_allclose(outputs[0][0], images['visible'][0])
  assert_allclose(outputs[0][1], images['x'][0])


def test_a_subset_of_streams_gives_the_same_at_test(initialised):
  network, images, variables = initialised
  full = network.apply(variables, images, train=False)
  for streams in (('infrared',), ('intermediate', 'visible')):
    part = network.apply(
      variables, {s: images[s] for s in streams}, train=False
    )
    assert set(part.pooled) == set(streams)
    for a, b in ((part.pooled, full.pooled), (part.logits, full.logits)):
      for stream in streams:
        assert_allclose(a[stream], b[stream], rtol=1e-4, atol=1e-5)


def test_training_updates_only_what_was_passed_and_keeps_the_tree(initialised):
  network, images, variables = initialised
  part = {s: images[s] for s in STREAMS[:2]}
  output, updated = _train(network, variables, part)
  old, new = variables['batch_stats'], updated['batch_stats']
  assert jax.tree.structure(old) == jax.tree.structure(new)
  changed = {
    k: bool(jnp.any(new['backbone'][k]['norm']['mean'] != 0))
    for k in ('visible_stage0', 'infrared_stage0', 'intermediate_stage0')
  }
  assert list(changed.values()) == [True, True, False]
  assert [m.shape[0] for m in output.feature_maps] == [4, 4]
  assert output.feature_maps[-1].shape == (4, 4, 2, 8)


def test_shared_batch_norm_sees_all_streams(initialised):
  network, images, variables = initialised
  output, _ = _train(network, variables, images)
  everything = jnp.concatenate([output.neck[s] for s in STREAMS])
  assert_allclose(everything.mean(0), np.zeros(8), atol=1e-4)
  assert jnp.abs(output.neck['visible'].mean(0)).max() > 0.05


def test_eight_devices_equal_one():
  with jax.enable_x64(True):
    network = _network(1, dtype=jnp.float64)
    images = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), _images(8, (16, 8))
    )
    variables = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64),
      _init(network, images),
    )

    @jax.jit
    def gradient(params, images):
      def loss(params):
        output, updated = network.apply(
          {**variables, 'params': params},
          images,
          train=True,
          mutable=['batch_stats'],
        )
        total = sum(jnp.sum(jnp.sin(p)) for p in output.pooled.values())
        return total, (output, updated)

      return jax.value_and_grad(loss, has_aux=True)(params)

    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    one = gradient(variables['params'], images)
    eight = gradient(variables['params'], jax.device_put(images, rows))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
      assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def _test_time_parameters(split, nonlocal_blocks=False):
  """Of the backbone of two streams, without the non-local blocks."""
  streams = STREAMS[:2]
  network = MultiStream(
    resnet_stages('resnet50', nonlocal_blocks=nonlocal_blocks), split, streams
  )
  images = _images(streams=streams)
  params = jax.eval_shape(
    lambda key: network.init(key, images, train=False), jax.random.key(0)
  )['params']
  return count_parameters(params)


def test_published_parameter_counts():
  # Table 4 of the LUPI paper: 23.7 M and, for AGW, 23.5 M.
  stem, stage1 = 64 * 3 * 49 + 2 * 64, 215_808
  assert _test_time_parameters(split=2) == 23_508_032 + stem + stage1
  assert _test_time_parameters(split=1) == 23_508_032 + stem
  assert (
    _test_time_parameters(split=1, nonlocal_blocks=True)
    == 23_508_032 + stem + 28_687
  )
