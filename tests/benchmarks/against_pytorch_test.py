"""PyTorch's LUPI step is ours: the same loss and gradient from one start."""

import random

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from benchmarks import torch_lupi  # noqa: E402
from benchmarks.parity import gradient_error  # noqa: E402
from benchmarks.torch_feed import DeviceBatches, HostImages  # noqa: E402
from benchmarks.train_step import make_config, random_table  # noqa: E402
from jaxreid import experiment  # noqa: E402

pytestmark = pytest.mark.torch
CLASSES, SIZE = 9, (48, 24)


def _config():
  config = make_config('lupi', 'small', 'float32', 4)
  config.dataset.image_size = SIZE
  config.method.padding = 2
  config.method.color_free_weight = 10.0
  return config


@pytest.fixture(scope='module')
def pair():
  """Ours and theirs, with the same random weights, and a batch."""
  config = _config()
  method = experiment.make_method(config, CLASSES)
  raw = experiment._raw_batch(config, 16)
  variables = jax.jit(
    method.init, compiler_options={'xla_backend_optimization_level': 0}
  )(jax.random.key(0), raw)
  rng = np.random.default_rng(0)
  # Non-local blocks that start as the identity would hide a mistake.
  variables = jax.tree.map(
    lambda x: np.asarray(x) + rng.normal(0, 0.02, x.shape).astype('float32'),
    variables,
  )
  network = torch_lupi.Network(CLASSES, config.backbone.name).train()
  torch_lupi.load(network, _network(variables))
  images = {
    stream: rng.normal(size=(16, *SIZE, 3)).astype('float32')
    for stream in torch_lupi.STREAMS
  }
  labels = np.repeat(np.array([5, 0, 8, 3], np.int32), 4)
  return method, variables, network, images, labels


def _network(variables):
  return {
    'params': variables['params']['backbone'],
    'batch_stats': variables['model_state']['backbone'],
  }


def test_loss_and_gradient(pair):
  method, variables, network, images, labels = pair

  def loss(params, state, batch):
    given = {'params': {'backbone': params}, 'model_state': {'backbone': state}}
    value, aux = method.losses['backbone'](given, batch, jax.random.key(0), {})
    return value, aux.model_state

  ours = _network(variables)
  (value, state), gradient = jax.jit(
    jax.value_and_grad(loss, has_aux=True),
    compiler_options={'xla_backend_optimization_level': 0},
  )(ours['params'], ours['batch_stats'], {**images, 'label': labels})

  given = {
    name: torch.from_numpy(x).permute(0, 3, 1, 2) for name, x in images.items()
  }
  expected = torch_lupi.lupi_loss(
    network, given, torch.from_numpy(labels).long(), 0.1, 10.0
  )
  expected.backward()
  assert float(value) == pytest.approx(expected.item(), rel=1e-5)
  # Gradients under PyTorch's names, in PyTorch's layout.
  found = torch_lupi.Network(CLASSES, 'resnet_small')
  torch_lupi.load(found, {'params': gradient, 'batch_stats': state})
  theirs, mine = network.state_dict(), found.state_dict()
  for name in theirs:
    if 'running' in name:
      np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3, atol=1e-4)
  grads = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
  # Single precision: a maximum or a ReLU may fall to the other side.
  error = gradient_error(
    {n: mine[n].numpy() for n in grads},
    {n: g.numpy() for n, g in grads.items()},
  )
  assert error < 5e-2


def test_the_optimizer_moves_as_ours():
  network = torch_lupi.Network(3, 'resnet_small')
  optimizer = torch_lupi.make_optimizer(network, fused=False)
  config = _config()
  config.optimizer.multipliers = {'backbone': 0.1}
  config.schedule.update(
    {'base_rate': 0.01, 'warmup_epochs': 0.0, 'decay_epochs': ()}
  )
  method = experiment.make_method(config, 3)
  ours = experiment.make_optimizers(config, method, 1)['backbone']
  names = ('backbone.stage4.block0.conv1.weight', 'head.classifier.weight')
  parameters = {n: dict(network.named_parameters())[n] for n in names}
  tree = {
    n.split('.')[0]: p.detach().numpy().copy() for n, p in parameters.items()
  }
  state = ours.init(tree)
  rng = np.random.default_rng(0)
  for _ in range(3):
    grads = {
      n: rng.normal(size=p.shape).astype('float32') for n, p in tree.items()
    }
    for name, parameter in parameters.items():
      parameter.grad = torch.from_numpy(grads[name.split('.')[0]])
    optimizer.step()
    updates, state = ours.update(grads, state, tree)
    tree = {n: tree[n] + np.asarray(updates[n]) for n in tree}
  for name, parameter in parameters.items():
    np.testing.assert_allclose(
      tree[name.split('.')[0]], parameter.detach(), rtol=1e-5, atol=1e-7
    )


def test_what_they_train_on_looks_like_ours():
  torch.manual_seed(0)
  np.random.seed(0)
  random.seed(0)
  config = _config()
  table = random_table(config, CLASSES)
  sampler = experiment.make_sampler(config, table)
  device, labels = DeviceBatches(
    table, sampler, torch.device('cpu'), padding=2, compiled=False
  ).next()
  host = [HostImages(table, sampler, 2)[i] for i in range(16)]
  rows = sampler[0]
  np.testing.assert_array_equal(labels, rows['label'])
  assert [item[3] for item in host] == rows['label'].tolist()
  raw = {name: table.images[rows[name]] for name in ('visible', 'infrared')}
  augment = jax.jit(experiment.make_method(config, CLASSES).augment)
  ours = augment(jax.random.key(0), {**raw, 'label': rows['label']})
  for i, stream in enumerate(torch_lupi.STREAMS):
    expected = np.asarray(ours[stream])
    for found in (
      device[stream].permute(0, 2, 3, 1).numpy(),
      np.stack([item[i] for item in host]).transpose(0, 2, 3, 1),
    ):
      assert found.shape == expected.shape
      assert found.dtype == expected.dtype
      np.testing.assert_allclose(
        found.mean((0, 1, 2)), expected.mean((0, 1, 2)), atol=0.2
      )
      np.testing.assert_allclose(found.std(), expected.std(), rtol=0.2)
