"""From a config to methods, optimizers and data: the one assembly room.

Synopsis:

  setup = build(config)
  state = setup.init()
  state, metrics = setup.step(state, setup.feed.pixels, inputs, setup.key)

Every name in a config becomes an object here and nowhere else. All that a
config or the data can get wrong raises ValueError before the first step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxreid import (
  dispatch,
  initial_weights,
  optim,
  sharding,
  train_state,
  train_step,
)
from jaxreid.config_checks import check_values
from jaxreid.data.feed import Feed, Gather, open_feed
from jaxreid.data.sampler import IdentitySampler
from jaxreid.data.source import Table, open_table
from jaxreid.initial_weights import InitialWeights
from jaxreid.method import Key, Method, Variables
from jaxreid.methods import baseline, dual_swin, lupi, plugins, tsgan, xiv
from jaxreid.models import backbone_stages
from jaxreid.train_state import TrainState

METHODS: dict[str, Callable[..., Method]] = {
  'baseline': baseline.baseline,
  'lupi': lupi.lupi,
  'xiv': xiv.xiv,
  'dual_swin': dual_swin.dual_swin,
  'tsgan': tsgan.tsgan,
}
OPTIMIZERS = {'sgd': optim.sgd, 'adam': optim.adam}


class Setup(NamedTuple):
  """What a run is made of.

  Attributes:
    method: the method.
    mesh: the devices.
    train: the training table.
    sampler: the rows of each step.
    feed: the pixels of each step.
    total_steps: of the whole schedule.
    images_per_step: images that pass the network in a step, all streams.
    key: of the run; steps fold their number into it.
    init: () -> the state before the first step, on the devices.
    shapes: () -> its shapes, types and shardings; nothing is computed.
    step: (state, feed.pixels, inputs, key) -> (state, metrics); jitted, the
      state is donated.
    steps_per_dispatch: with more than 1, inputs and metrics of `step` have an
      axis of steps in front (`dispatch`).
    weights: what the first state starts from; None for random weights.
  """

  method: Method
  mesh: Mesh
  train: Table
  sampler: IdentitySampler
  feed: Feed
  total_steps: int
  images_per_step: int
  key: Key
  init: Callable[[], TrainState]
  shapes: Callable[[], TrainState]
  step: Callable[..., tuple[TrainState, dict[str, Array]]]
  steps_per_dispatch: int
  weights: InitialWeights | None


def build(
  config: ml_collections.ConfigDict, train: Table | None = None
) -> Setup:
  """Assembles a run; prepares or decodes the dataset where necessary.

  Args:
    config: of the run.
    train: a table in place of that of `config.dataset`.

  Raises:
    ValueError: whatever the config or the data gets wrong, in a sentence.
  """
  check_values(config)
  mesh = sharding.make_mesh()
  sharding.check_divisible(
    config.batch.identities * config.batch.images_per_identity, mesh
  )
  # All options are complained of before data is touched.
  method = make_method(config, 2)
  make_optimizers(config, method, 1)
  weights = initial_weights.read_weights(config, _variables(config, method))
  train = open_split(config, 'train') if train is None else train
  sampler = make_sampler(config, train)
  method = make_method(config, sampler.num_classes)
  optimizers = make_optimizers(config, method, sampler.steps_per_epoch)
  feed = open_feed(train.images, sampler, mesh, config.dataset.residency)
  create = _creator(config, method, optimizers)
  total_steps = optim.total_steps(_plan(config), sampler.steps_per_epoch)
  platform = mesh.devices.flat[0].platform
  length = dispatch.choose_length(
    config, total_steps, feed.pixels is not None, platform
  )
  return Setup(
    method=method,
    mesh=mesh,
    train=train,
    sampler=sampler,
    feed=feed,
    total_steps=total_steps,
    key=_key(config.seed, mesh),
    images_per_step=_count_images(config, method, sampler.batch_size),
    init=functools.partial(_init, create, weights, mesh),
    shapes=functools.partial(_shapes, create, mesh),
    step=_jit_step(method, optimizers, feed.gather, mesh, length > 1),
    steps_per_dispatch=length,
    weights=weights,
  )


class Outline(NamedTuple):
  """What a run compiles, as shapes alone.

  Attributes:
    method: the method.
    step: as in `Setup`, to be lowered.
    arguments: shapes, types and shardings of what `step` takes.
  """

  method: Method
  step: Any
  arguments: tuple[Any, ...]


def outline(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  num_classes: int,
  steps_per_epoch: int = 1,
) -> Outline:
  """The step of a run without its data, for devices that need not be there.

  The pixels come with each step, as with `dataset.residency='host'`.

  Args:
    config: of the run.
    mesh: the devices, real or of a topology.
    num_classes: identities trained on.
    steps_per_epoch: for the learning rate; changes no shape.

  Raises:
    ValueError: whatever the config gets wrong, in a sentence.
  """
  check_values(config)
  count = config.batch.identities * config.batch.images_per_identity
  sharding.check_divisible(count, mesh)
  method = make_method(config, num_classes)
  optimizers = make_optimizers(config, method, steps_per_epoch)
  state = _shapes(_creator(config, method, optimizers), mesh)
  inputs, key = jax.eval_shape(
    lambda: (_raw_batch(config, count), jax.random.key(config.seed))
  )
  rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  arguments = (state, None, _placed(inputs, rows), _placed(key, whole))
  step = _jit_step(method, optimizers, lambda pixels, inputs: inputs, mesh)
  return Outline(method, step, arguments)


def make_method(config: ml_collections.ConfigDict, num_classes: int) -> Method:
  """The method of `config.method` on the backbone of `config.backbone`.

  With the plug-ins that `config.plugins` switches on, if it has that section.

  Raises:
    ValueError: on an unknown method, option or backbone.
  """
  options = config.method.to_dict()
  name = options.pop('name')
  if name not in METHODS:
    raise ValueError(
      f'unknown method.name {name!r}; there are: ' + ', '.join(METHODS)
    )
  backbone = config.backbone.to_dict()
  del backbone['pretrained']
  dtype = backbone.pop('dtype')
  if dtype not in ('float32', 'bfloat16'):
    raise ValueError(
      f"backbone.dtype must be 'float32' or 'bfloat16', not {dtype!r}"
    )
  try:
    stages = backbone_stages(**backbone, dtype=jnp.dtype(dtype))
  except TypeError as error:
    raise ValueError(f'config.backbone: {error}') from error
  try:
    method = METHODS[name](num_classes, stages, **options)
  except TypeError as error:
    raise ValueError(f'config.method: {error}') from error
  return _plug_in(method, config) if 'plugins' in config else method


def _plug_in(method: Method, config: ml_collections.ConfigDict) -> Method:
  """What `config.plugins` switches on."""
  multi_mask = config.plugins.multi_mask.to_dict()
  if multi_mask['weight']:
    method = plugins.with_multi_mask(method, **multi_mask)
  exchange = config.plugins.exchange.to_dict()
  if exchange['probability']:
    method = plugins.with_exchange(method, **exchange)
  return method


def make_optimizers(
  config: ml_collections.ConfigDict, method: Method, steps_per_epoch: int
) -> dict[str, optax.GradientTransformation]:
  """One optimizer per player that has a loss.

  By `config.optimizer` and `config.schedule`, but for the players that
  `config.player_optimizers` names: these have an optimizer of their own, with
  a constant rate among its options.

  Raises:
    ValueError: on an unknown optimizer or player, or an empty schedule.
  """
  rate = optim.schedule(_plan(config), steps_per_epoch)
  common = {'rate': rate, **config.optimizer.to_dict()}
  sections = {player: ('optimizer', common) for player in method.losses}
  for player, options in config.get('player_optimizers', {}).items():
    field = f'player_optimizers.{player}'
    if player not in method.losses:
      raise ValueError(
        f'config.{field}: {config.method.name} trains no such player; there '
        'are: ' + ', '.join(method.losses)
      )
    sections[player] = (field, options.to_dict())
  return {
    player: _make_optimizer(field, options)
    for player, (field, options) in sections.items()
  }


def _make_optimizer(
  field: str, options: dict[str, Any]
) -> optax.GradientTransformation:
  rest = dict(options)
  name = rest.pop('name')
  if name not in OPTIMIZERS:
    raise ValueError(
      f'unknown {field}.name {name!r}; there are: ' + ', '.join(OPTIMIZERS)
    )
  try:
    return OPTIMIZERS[name](**rest)
  except TypeError as error:
    raise ValueError(f'config.{field}: {error}') from error


def open_split(config: ml_collections.ConfigDict, split: str) -> Table:
  """The decoded table of a split of `config.dataset`."""
  dataset = config.dataset
  return open_table(
    dataset.name,
    dataset.config,
    split,
    tuple(dataset.image_size),
    dataset.data_dir or None,
  )


def make_sampler(
  config: ml_collections.ConfigDict, table: Table
) -> IdentitySampler:
  """The sampler, with `dataset.validation_identities` held out."""
  return IdentitySampler(
    table.records,
    config.batch.identities,
    config.batch.images_per_identity,
    config.seed,
    held_out(config, table),
  )


def held_out(
  config: ml_collections.ConfigDict, table: Table
) -> tuple[int, ...]:
  """The validation identities: drawn once, by the seed of the run.

  With `dataset.validation_identities=-1` those that the dataset names.

  Raises:
    ValueError: if too few would be left to train on, or the dataset names
      none.
  """
  count = config.dataset.validation_identities
  identities = np.unique(table.records.identity)
  if not count:
    return ()
  if count == -1:
    if not table.validation_identities:
      raise ValueError(
        f'{config.dataset.name} names no validation identities of its own; '
        'give dataset.validation_identities a number'
      )
    return table.validation_identities
  if not 0 <= count <= len(identities) - config.batch.identities:
    raise ValueError(
      f'dataset.validation_identities={count} leaves fewer than '
      f'batch.identities={config.batch.identities} of the '
      f'{len(identities)} identities to train on'
    )
  rng = np.random.default_rng(config.seed)
  drawn = rng.choice(identities, count, replace=False)
  return tuple(sorted(drawn.tolist()))


def _plan(config: ml_collections.ConfigDict) -> optim.Schedule:
  return optim.Schedule(**config.schedule.to_dict())


def _creator(
  config: ml_collections.ConfigDict,
  method: Method,
  optimizers: dict[str, optax.GradientTransformation],
) -> Callable[[], TrainState]:
  """() -> the state before the first step, from random parameters."""

  def create() -> TrainState:
    batch = _raw_batch(config, 2)
    # A stream of its own: steps fold their number into the run's key.
    key = jax.random.key(config.seed + (1 << 20))
    return train_state.create(method, optimizers, key, batch)

  return create


def _raw_batch(
  config: ml_collections.ConfigDict, count: int
) -> dict[str, Array]:
  """A black raw batch, for its shapes."""
  shape = (count, *config.dataset.image_size, 3)
  return {
    'visible': jnp.zeros(shape, jnp.uint8),
    'infrared': jnp.zeros(shape, jnp.uint8),
    'label': jnp.arange(count, dtype=jnp.int32),
  }


def _count_images(
  config: ml_collections.ConfigDict, method: Method, batch_size: int
) -> int:
  views = jax.eval_shape(
    lambda: method.augment(jax.random.key(0), _raw_batch(config, batch_size))
  )
  return sum(len(view) for view in views.values() if view.ndim == 4)


def _variables(config: ml_collections.ConfigDict, method: Method) -> Variables:
  """Shapes of the method's variables."""
  batch = _raw_batch(config, 2)
  return jax.eval_shape(method.init, jax.random.key(0), batch)


def _init(
  create: Callable[[], TrainState],
  weights: InitialWeights | None,
  mesh: Mesh,
) -> TrainState:
  """The first state, replicated; with the weights that were read."""
  place = sharding.replicated(mesh)
  # It runs once: compiling it well takes four times as long on CPU.
  cpu = mesh.devices.flat[0].platform == 'cpu'
  options = {'xla_backend_optimization_level': 0} if cpu else {}
  state = jax.jit(create, out_shardings=place, compiler_options=options)()
  if weights is None:
    return state
  return jax.device_put(initial_weights.fill(state, weights), place)


def _key(seed: int, mesh: Mesh) -> Key:
  # Keys cannot be put on the devices of other processes, only made there.
  make = functools.partial(jax.random.key, seed)
  return jax.jit(make, out_shardings=sharding.replicated(mesh))()


def _shapes(create: Callable[[], TrainState], mesh: Mesh) -> TrainState:
  return _placed(jax.eval_shape(create), sharding.replicated(mesh))


def _placed(shapes: Any, place: jax.sharding.Sharding) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes
  )


def _jit_step(
  method: Method,
  optimizers: dict[str, optax.GradientTransformation],
  gather: Gather,
  mesh: Mesh,
  several: bool = False,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  move = train_step.make_train_step(method, optimizers)
  place = sharding.replicated(mesh)

  def step(state, pixels, inputs, key):
    return move(state, gather(pixels, inputs), key)

  return jax.jit(
    dispatch.scanned(step) if several else step,
    donate_argnums=0,
    out_shardings=(place, place),
  )
