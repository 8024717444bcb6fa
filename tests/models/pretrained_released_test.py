"""A published PyTorch checkpoint is evaluated as PyTorch would have done it."""

import json

import jax
import numpy as np
import pytest

from configs import baseline, lupi
from jaxreid import experiment, results
from jaxreid.data.source import INFRARED, VISIBLE
from jaxreid.models import pretrained

pytestmark = [pytest.mark.torch, pytest.mark.slow]

CLASSES = 395  # of SYSU-MM01; the rendered set has others


@pytest.fixture(scope='module')
def config(tiny_data_dir):
  config = baseline.get_config()
  config.backbone.name = 'resnet50'
  config.dataset.config = 'tiny'
  config.dataset.data_dir = str(tiny_data_dir)
  config.dataset.image_size = (48, 24)
  return config


@pytest.fixture(scope='module')
def agw(config, tmp_path_factory):
  """(network, file), saved as AGW's train.py does."""
  torch = pytest.importorskip('torch')
  from tests.models import torch_reference

  network = torch_reference.AGW(CLASSES, inner=lambda channels: 1)
  images = experiment.open_split(config, 'test').images
  x = _normalised(images[:: len(images) // 24])
  torch_reference.randomise(network, lambda: network(x, x), 3).eval()
  _damp(network)
  path = tmp_path_factory.mktemp('released') / 'sysu_agw_p4_n8_best.t'
  accuracy = {
    'acc': np.linspace(0, 1, 20),
    'mAP': np.float64(0.4765),
    'mINP': np.float64(0.3530),
    'epoch': 26,
  }
  torch.save({'net': network.state_dict(), **accuracy}, path)
  return network, path


def _damp(network):
  """Non-local blocks are cubic in their input: five of them overflow."""
  for block in (*network.NL_2, *network.NL_3):
    block.W[1].weight.data *= 0.05


def _normalised(images):
  import torch

  mean = np.array([0.485, 0.456, 0.406], np.float32)
  std = np.array([0.229, 0.224, 0.225], np.float32)
  pixels = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
  return torch.from_numpy(np.ascontiguousarray(pixels))


@pytest.fixture(scope='module')
def report(agw, config, start, finish, tmp_path_factory):
  """results.json of the command in docs/weights.md."""
  _, path = agw
  workdir = tmp_path_factory.mktemp('runs') / 'agw'
  fields = ('name', 'nonlocal_blocks')
  child = finish(
    start(
      '--config=configs/baseline.py',
      f'--config.weights={path}',
      *(f'--config.backbone.{n}={config.backbone[n]}' for n in fields),
      '--config.dataset.config=tiny',
      f'--config.dataset.data_dir={config.dataset.data_dir}',
      '--config.dataset.image_size=(48, 24)',
      '--config.batch.identities=4',
      '--config.evaluation.batch_size=40',
      '--mode=evaluate',
      f'--workdir={workdir}',
    )
  )
  assert child.returncode == 0, child.stderr
  assert 'Weights: ' in child.stdout
  assert 'as released' in child.stdout
  return json.loads((workdir / 'results.json').read_text())


def _torch_features(network, images, modality):
  """Neck features of length 1."""
  import torch

  x = _normalised(images)
  with torch.no_grad():
    # Both stems see the images; the output of one of them counts.
    _, neck, _ = network(x, x)
  half = neck[: len(x)] if modality == VISIBLE else neck[len(x) :]
  half = half.numpy().astype(np.float64)
  return half / np.linalg.norm(half, axis=1, keepdims=True)


def _rank(query, gallery, trial):
  """rank-1, mAP and mINP in per cent, by sorting one query after another."""
  firsts, aps, inps = [], [], []
  for q in range(len(query)):
    distance = ((query[q] - gallery) ** 2).sum(1)
    kept = [g for g in np.argsort(distance) if trial.comparable[q, g]]
    hits = [
      place
      for place, g in enumerate(kept, 1)
      if trial.gallery_ids[g] == trial.query_ids[q]
    ]
    if hits:
      firsts.append(hits[0] == 1)
      aps.append(np.mean([n / place for n, place in enumerate(hits, 1)]))
      inps.append(len(hits) / hits[-1])
  return [100 * np.mean(values) for values in (firsts, aps, inps)]


def test_the_ranking_is_pytorchs(agw, config, report):
  network, _ = agw
  test = experiment.open_split(config, 'test')
  features = np.zeros((len(test.images), 2048))
  for modality in (VISIBLE, INFRARED):
    rows = np.flatnonzero(test.records.modality == modality)
    features[rows] = _torch_features(network, test.images[rows], modality)
  compared = 0
  for search in results.searches(config, test):
    if {search.query_modality, search.gallery_modality} - {
      'visible',
      'infrared',
    }:
      continue
    expected = np.mean(
      [
        _rank(features[t.query_rows], features[t.gallery_rows], t)
        for t in search.trials
      ],
      0,
    )
    found = report['results'][search.name]
    values = [found[name] for name in ('rank1', 'mAP', 'mINP')]
    np.testing.assert_allclose(values, expected, atol=1e-3)
    assert 0 < found['mAP'] < 100
    compared += 1
  assert compared >= 2


def test_the_results_say_what_was_evaluated(agw, report):
  _, path = agw
  assert report['checkpoint'] is None
  assert report['weights'] == {
    'field': 'weights',
    'file': str(path),
    'sha256': pretrained.checksum(path),
  }


def test_the_file_is_recognised(agw, capsys):
  from jaxreid.models.pretrained import __main__ as command

  _, path = agw
  command.main(['inspect', str(path)])
  out = capsys.readouterr().out
  for part in (
    'PyTorch (zip)',
    "unwrapped 'net'; left out beside it: acc, mAP, mINP, epoch",
    'matches: the released AGW network on resnet50, 395 classes',
    '--config=configs/baseline.py',
  ):
    assert part in out


def test_training_may_start_from_it(agw, config):
  """The state before the first step holds the network, both stems."""
  network, path = agw
  config = config.copy_and_resolve_references()
  config.weights = str(path)
  config.batch.identities = 4
  state = experiment.build(config).init()
  backbone = state.params['backbone']['backbone']
  assert jax.tree.leaves(backbone)
  for stream, module in (
    ('visible', network.visible_module['visible']),
    ('infrared', network.thermal_module['thermal']),
  ):
    kernel = module.conv1.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
      backbone[f'{stream}_stage0']['conv']['kernel'], kernel
    )


def _lupi(torch, torch_reference):
  """LUPI's three stems without ReLU and the shared rest, released names."""
  nn = torch.nn

  class Lupi(nn.Module):
    def __init__(self):
      super().__init__()
      for stream in ('visible', 'thermal', 'gray'):
        net = torch_reference.ResNet50(last_stride=1, classifier=False)
        part = nn.Sequential(
          net.conv1, net.bn1, nn.MaxPool2d(3, 2, 1), net.layer1
        )
        module = nn.ModuleDict({'resnet_part1': part})
        self.add_module(f'{stream}_module', module)
      net = torch_reference.ResNet50(last_stride=1, classifier=False)
      part = nn.Sequential(net.layer2, net.layer3, net.layer4)
      self.base_resnet = nn.ModuleDict({'resnet_part2': part})
      block = torch_reference.NonLocal
      self.NL_2 = nn.ModuleList(block(512, 1) for _ in range(2))
      self.NL_3 = nn.ModuleList(block(1024, 1) for _ in range(3))
      self.bottleneck = nn.BatchNorm1d(2048)
      self.bottleneck.bias.requires_grad_(False)
      self.classifier = nn.Linear(2048, CLASSES, bias=False)

    def forward(self, images):
      """stream -> [N, 3, H, W]; the neck features, one stream after another."""
      x = torch.cat(
        [
          self.get_submodule(f'{stream}_module')['resnet_part1'](batch)
          for stream, batch in images.items()
        ]
      )
      layer2, layer3, layer4 = self.base_resnet['resnet_part2']
      for layer, blocks in ((layer2, self.NL_2), (layer3, self.NL_3)):
        for i, block in enumerate(layer):
          x = block(x)
          if i >= len(layer) - len(blocks):
            x = blocks[i - len(layer) + len(blocks)](x)
      x = layer4(x)
      return self.bottleneck(((x**3).mean((2, 3)) + 1e-12) ** (1 / 3))

  return Lupi()


def test_lupi_embeds_as_pytorch_does(tmp_path):
  torch = pytest.importorskip('torch')
  from tests.models import torch_reference

  rng = np.random.default_rng(6)
  images = {
    stream: rng.integers(0, 256, (3, 48, 24, 3), np.uint8)
    for stream in ('visible', 'thermal', 'gray')
  }
  tensors = {stream: _normalised(x) for stream, x in images.items()}
  network = _lupi(torch, torch_reference)
  torch_reference.randomise(network, lambda: network(tensors), 7).eval()
  _damp(network)
  with torch.no_grad():
    expected = network(tensors).numpy().reshape(3, 3, 2048)
  expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  path = tmp_path / 'lupi.t'
  torch.save({'net': network.state_dict(), 'epoch': 3}, path)

  config = lupi.get_config()
  config.backbone.name = 'resnet50'
  config.backbone.stem_relu = False
  method = experiment.make_method(config, CLASSES)
  batch = {
    'visible': jax.ShapeDtypeStruct((2, 48, 24, 3), np.uint8),
    'infrared': jax.ShapeDtypeStruct((2, 48, 24, 3), np.uint8),
    'label': jax.ShapeDtypeStruct((2,), np.int32),
  }
  shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
  filled = pretrained.fill_network(
    {
      'params': shapes['params']['backbone'],
      'batch_stats': shapes['model_state']['backbone'],
    },
    pretrained.load(path),
    config.backbone.to_dict(),
  )
  variables = {
    'params': {'backbone': filled['params']},
    'model_state': {'backbone': filled['batch_stats']},
  }
  embed = jax.jit(method.embed, static_argnums=2)
  for i, (stream, modality) in enumerate(
    (('visible', 'visible'), ('thermal', 'infrared'))
  ):
    ours = embed(variables, images[stream], modality)[:, 0]
    np.testing.assert_allclose(ours, expected[i], atol=1e-5)
    others = expected[1 - i]
    assert np.abs(np.asarray(ours) - others).max() > 1e-2
