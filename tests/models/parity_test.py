"""The same weights give in PyTorch what they give here, forward and backward.

`python -m benchmarks.parity` prints the errors of every network and size.
"""

import jax
import pytest

torch = pytest.importorskip('torch')

from benchmarks import parity  # noqa: E402
from benchmarks.parity import Case  # noqa: E402
from jaxreid.models import count_parameters  # noqa: E402
from tests.models import torch_reference  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.slow
@pytest.mark.parametrize(
  'case',
  [
    Case('resnet50', (224, 224), last_stride=2),
    Case('resnet50', (288, 144)),
    Case('densenet121', (224, 224), last_stride=2),
    Case('densenet121', (256, 128)),
    Case('swin_tiny', (224, 224), last_stride=2, tiled=True),
    Case('swin_tiny', (288, 144), last_stride=2),
    Case('swin_tiny', (256, 128), last_stride=2),
    Case('agw', (288, 144)),
    Case('agw intended', (256, 128)),
  ],
  ids=str,
)
def test_features_at_paper_sizes(case):
  assert parity.eval_error(parity.make_pair(case)) < 1e-4


@pytest.mark.parametrize('case', parity.SMALL_SIZES, ids=str)
def test_training_statistics_and_gradients(case):
  # In double precision: no ReLU and no maximum falls to the other side.
  with jax.enable_x64(True):
    features, statistics, gradient = parity.train_errors(
      parity.make_pair(case, dtype='float64')
    )
  assert features < 1e-9
  # Both kept in single precision.
  assert statistics < 1e-6
  assert gradient < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
  'case',
  [
    Case('resnet50', (288, 144)),
    Case('swin_tiny', (224, 224), last_stride=2, tiled=True),
    Case('agw', (288, 144)),
  ],
  ids=str,
)
def test_training_in_single_precision(case):
  features, statistics = parity.forward_errors(parity.make_pair(case))
  assert features < 1e-4
  assert statistics < 1e-4


@pytest.mark.parametrize(
  ('reference', 'published'),
  [
    (torch_reference.ResNet50, 25_557_032),
    (torch_reference.DenseNet121, 7_978_856),
    (torch_reference.Swin, 28_288_354),
  ],
)
def test_the_references_have_the_published_size(reference, published):
  module = reference()
  assert sum(p.numel() for p in module.parameters()) == published


def test_an_error_would_be_seen():
  case = Case('agw', (64, 32))
  pair = parity.make_pair(case)
  variables = jax.tree.map(lambda x: x, pair.variables)
  neck = variables['batch_stats']['head']['neck']
  # As if the running variance were the biased one of 1000 values.
  neck['var'] = neck['var'] * 0.999
  assert parity.eval_error(pair._replace(variables=variables)) > 1e-4
  assert count_parameters(variables['params']) > 23_000_000
