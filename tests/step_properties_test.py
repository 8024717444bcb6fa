"""What a step of a real run is made of: types, copies, traces, transfers."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lupi as lupi_config
from jaxreid import experiment, sharding, train
from jaxreid.data.source import INFRARED, VISIBLE, Records, Table
from jaxreid.models import cost


def _half(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  config.backbone.dtype = 'bfloat16'
  return experiment.outline(config, sharding.make_mesh(), 7)


def _types(tree):
  return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize('name', experiment.METHODS)
def test_bfloat16_computes_and_float32_is_kept(name):
  outline = _half(name)
  traced = outline.step.trace(*outline.arguments)
  before, (state, metrics) = outline.arguments[0], traced.out_info
  for part in ('params', 'model_state', 'opt_state'):
    kept, given = getattr(state, part), getattr(before, part)
    assert _types(kept) <= {'float32', 'int32'}, part
    assert jax.tree.map(lambda x: x.dtype, kept) == jax.tree.map(
      lambda x: x.dtype, given
    )
  assert _types(metrics) == {'float32'}
  # Not the generators of XIV and TS-GAN, the pooling and the head.
  products: dict[str, int] = {}
  for equation in cost._equations(traced.jaxpr):
    if equation.primitive.name in ('conv_general_dilated', 'dot_general'):
      types = {str(x.aval.dtype) for x in equation.invars}
      assert len(types) == 1, equation
      (kind,) = types
      products[kind] = products.get(kind, 0) + cost._cost(equation)
  share = products['bfloat16'] / sum(products.values())
  assert share > (0.05 if name == 'tsgan' else 0.95), products


def _table():
  rng = np.random.default_rng(0)
  identity, modality = np.array(
    [(p, m) for p in range(4) for m in (VISIBLE, INFRARED) for _ in range(6)]
  ).T
  zeros = np.zeros_like(identity)
  records = Records(identity, zeros, zeros, modality, zeros, zeros)
  pixels = rng.integers(0, 256, (len(identity), 24, 12, 3)).astype(np.uint8)
  return Table(pixels, records, 'fingerprint')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of LUPI of 6 steps, and how often its step was traced."""
  config = lupi_config.get_config()
  config.dataset.image_size = (24, 12)
  config.batch = {'identities': 4, 'images_per_identity': 2}
  config.backbone.nonlocal_blocks = False
  config.schedule.epochs = 2.0
  config.log_every, config.checkpoint_every = 2, 2
  traces = []

  def counted(*arguments, **options):
    method = experiment.lupi.lupi(*arguments, **options)

    def loss(*given):
      traces.append(1)
      return method.losses['backbone'](*given)

    return method._replace(losses={'backbone': loss})

  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(experiment.METHODS, 'lupi', counted)
    setup = experiment.build(config, _table())
  folder = tmp_path_factory.mktemp('run')
  return train.Run(config, folder, setup, _table(), []), traces


@pytest.fixture
def no_transfers():
  """Called, it makes JAX refuse what moves between host and devices unasked."""
  yield lambda: jax.config.update('jax_transfer_guard', 'disallow')
  jax.config.update('jax_transfer_guard', 'allow')


def test_the_loop_transfers_nothing_unasked_and_traces_once(run, no_transfers):
  run, traces = run
  step = run.setup.step

  def guarded(*given):
    moved = step(*given)
    no_transfers()  # from the first step on; what is traced may hold constants
    return moved

  state = train.train(run._replace(setup=run.setup._replace(step=guarded)))
  with pytest.raises(Exception, match='Disallowed host-to-device'):
    jax.jit(jnp.sum)(np.ones(3))  # the guard is on
  assert run.setup.total_steps == 6
  assert int(state.step) == 6
  assert len(traces) == 1
  assert step._cache_size() == 1


def test_the_state_is_donated(run):
  setup = run[0].setup
  state = setup.init()
  inputs = next(setup.feed.inputs(0))
  moved, _ = setup.step(state, setup.feed.pixels, inputs, setup.key)
  leaves = jax.tree.leaves(state)
  assert all(leaf.is_deleted() for leaf in leaves)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(moved))
  # The pixels and the key are needed again.
  assert not setup.key.is_deleted()


def test_pixels_travel_as_bytes(run):
  inputs = next(run[0].setup.feed.inputs(0))
  assert inputs['visible'].dtype == inputs['infrared'].dtype == np.uint8
