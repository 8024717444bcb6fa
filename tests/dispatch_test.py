"""Several steps in one dispatch: which number, and the same run as one by one.

With a method whose step costs nothing to compile.
"""

import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import lupi
from jaxreid import dispatch, experiment, sharding, train, train_state
from jaxreid.data.feed import open_feed
from jaxreid.data.sampler import IdentitySampler
from jaxreid.data.source import INFRARED, VISIBLE, Records, Table
from jaxreid.method import Aux, Method
from jaxreid.train_step import make_train_step


def _config(log_every=20, checkpoint_every=200, **fields):
  return ml_collections.ConfigDict(
    {'log_every': log_every, 'checkpoint_every': checkpoint_every, **fields}
  )


@pytest.mark.parametrize(
  ('total', 'resident', 'platform', 'expected'),
  [
    (56380, True, 'gpu', 20),
    (56380, True, 'tpu', 20),
    (56375, True, 'gpu', 5),
    (56377, True, 'gpu', 1),
    (0, True, 'gpu', 20),
    (56380, False, 'gpu', 1),
    (56380, True, 'cpu', 1),
  ],
)
def test_the_number_that_is_chosen(total, resident, platform, expected):
  for config in (_config(), _config(steps_per_dispatch=0)):
    length = dispatch.choose_length(config, total, resident, platform)
    assert length == expected


def test_no_dispatch_is_too_long_to_be_interrupted():
  config = _config(log_every=120, checkpoint_every=240)
  assert dispatch.choose_length(config, 2400, True, 'gpu') == 24


def test_a_number_that_is_asked_for():
  config = _config(steps_per_dispatch=4)
  assert dispatch.choose_length(config, 40, True, 'cpu') == 4
  for total, name in ((42, r'the number of steps \(42\)'), (40, 'divisor of')):
    config.log_every = 20 if total == 42 else 10
    with pytest.raises(ValueError, match=f'steps_per_dispatch=4 .*{name}'):
      dispatch.choose_length(config, total, True, 'gpu')
  with pytest.raises(ValueError, match=r"set dataset.residency='device'"):
    dispatch.choose_length(_config(steps_per_dispatch=4), 40, False, 'gpu')
  one = _config(steps_per_dispatch=1)
  assert dispatch.choose_length(one, 40, True, 'gpu') == 1


def _table():
  rng = np.random.default_rng(0)
  identity, modality = np.array(
    [(p, m) for p in range(9) for m in (VISIBLE, INFRARED) for _ in range(4)]
  ).T
  zeros = np.zeros_like(identity)
  records = Records(identity, zeros, zeros, modality, zeros, zeros)
  pixels = rng.integers(0, 256, (len(identity), 8, 4, 3)).astype(np.uint8)
  return Table(pixels, records, 'fingerprint')


TABLE = _table()
SAMPLER = IdentitySampler(TABLE.records, 4, 2, seed=2)


@pytest.mark.parametrize('start', [0, 5])
def test_a_stack_holds_the_rows_of_its_steps(start):
  mesh = sharding.make_mesh()
  feed = open_feed(TABLE.images, SAMPLER, mesh, 'device')
  stacks, singles = feed.inputs(start, 3), feed.inputs(start)
  for _ in range(2):
    stack = next(stacks)
    for i in range(3):
      single = next(singles)
      for name, rows in single.items():
        np.testing.assert_array_equal(stack[name][i], rows)
    for array in stack.values():
      assert array.shape == (3, 8)
      assert array.addressable_shards[0].data.shape == (3, 1)


@pytest.mark.parametrize(
  ('start', 'length', 'ends'),
  [
    (0, 4, [4, 8, 12]),
    (4, 4, [8, 12]),
    (6, 4, [8, 10, 12]),
    (9, 4, [10, 11, 12]),
    (0, 1, list(range(1, 13))),
    (12, 4, []),
  ],
)
def test_dispatches_reach_the_end_from_anywhere(start, length, ends):
  feed = open_feed(TABLE.images, SAMPLER, sharding.make_mesh(), 'device')
  found = list(dispatch.dispatches(feed, start, 12, length))
  assert [last for last, _ in found] == ends
  rows = [np.asarray(i['label']).reshape(-1, 8) for _, i in found]
  expected = [SAMPLER[step]['label'] for step in range(start, 12)]
  if expected:
    np.testing.assert_array_equal(np.concatenate(rows), expected)


def _mean(name):
  def augment(key, batch):
    noise = jax.random.uniform(key, batch['label'].shape)
    pixels = batch['visible'].astype(jnp.float32).mean((1, 2, 3)) / 255
    return {'x': pixels + noise, 'label': batch['label']}

  def loss(variables, batch, key, outputs):
    w = variables['params'][name]['w']
    value = jnp.mean((batch['x'] * w - batch['label']) ** 2)
    state = variables['model_state'][name]
    return value, Aux({'noise': jax.random.uniform(key)}, {'n': state['n'] + w})

  return Method(
    init=lambda key, batch: {
      'params': {name: {'w': jnp.ones(())}},
      'model_state': {name: {'n': jnp.zeros(())}},
    },
    augment=augment,
    losses={name: loss},
    embed=lambda variables, images, modality: images,
  )


def _run(folder, length, total=12):
  """A run of `train` on a table that lies on the devices."""
  method, optimizers = _mean('net'), {'net': optax.sgd(0.1)}
  mesh = sharding.make_mesh()
  feed = open_feed(TABLE.images, SAMPLER, mesh, 'device')
  whole = sharding.replicated(mesh)
  move = make_train_step(method, optimizers)

  def step(state, pixels, inputs, key):
    return move(state, feed.gather(pixels, inputs), key)

  def create():
    batch = {'label': jnp.zeros(2)}
    return train_state.create(method, optimizers, jax.random.key(0), batch)

  jitted = jax.jit(
    dispatch.scanned(step) if length > 1 else step,
    donate_argnums=0,
    out_shardings=(whole, whole),
  )
  setup = experiment.Setup(
    method=method,
    mesh=mesh,
    train=TABLE,
    sampler=SAMPLER,
    feed=feed,
    total_steps=total,
    images_per_step=8,
    key=jax.device_put(jax.random.key(1), whole),
    init=lambda: jax.jit(create, out_shardings=whole)(),
    shapes=lambda: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
      jax.eval_shape(create),
    ),
    step=jitted,
    steps_per_dispatch=length,
    weights=None,
  )
  config = lupi.get_config()
  config.log_every, config.checkpoint_every = 4, 8
  folder.mkdir(exist_ok=True)
  return train.Run(config, folder, setup, TABLE, [])


def _lines(folder):
  text = (folder / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_a_run_is_the_same_one_by_one(tmp_path):
  states, lines = [], []
  for length in (1, 2, 4):
    run = _run(tmp_path / str(length), length)
    states.append(jax.device_get(train.train(run)))
    lines.append(_lines(run.workdir))
    assert run.setup.step._cache_size() == 1
  for other in (1, 2):
    assert [x['step'] for x in lines[other]] == [1, 4, 8, 12]
    for a, b in zip(lines[0], lines[other], strict=True):
      assert a == pytest.approx(b, rel=1e-6)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
      states[0],
      states[other],
    )


def test_resumed_runs_end_with_the_same_bits(tmp_path):
  whole = _run(tmp_path / 'whole', 4)
  expected = jax.device_get(train.train(whole))
  part = _run(tmp_path / 'part', 4, total=8)
  train.train(part)
  rest = _run(tmp_path / 'part', 4)
  found = jax.device_get(train.train(rest))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert _lines(rest.workdir) == _lines(whole.workdir)
