import jax
import jax.numpy as jnp
import pytest

from jaxreid.models.backbones import NAMES, backbone_stages
from jaxreid.models.streams import MultiStream

STREAMS = ('visible', 'infrared')


@pytest.mark.parametrize('name', NAMES)
def test_every_name_gives_five_stages(name):
  assert len(backbone_stages(name)) == 5


def test_unknown_name():
  with pytest.raises(ValueError) as error:
    backbone_stages('swin_huge')
  for word in ('swin_huge', 'backbone.name', *NAMES):
    assert word in str(error.value)


@pytest.mark.parametrize(
  ('name', 'option'),
  [
    ('densenet121', {'nonlocal_blocks': True}),
    ('densenet121', {'stem_relu': False}),
    ('densenet121', {'drop_path': 0.1}),
    ('densenet121', {'last_stride': 3}),
    ('swin_tiny', {'nonlocal_blocks': True}),
    ('swin_tiny', {'nonlocal_width': 'intended'}),
    ('swin_tiny', {'stem_relu': False}),
    ('swin_tiny', {'last_stride': 1}),
    ('resnet50', {'drop_path': 0.1}),
    ('resnet50', {'last_stride': 0}),
    ('resnet50', {'nonlocal_width': 'wide'}),
  ],
)
def test_no_option_is_silently_ignored(name, option):
  with pytest.raises(ValueError, match=f'backbone.{next(iter(option))} must'):
    backbone_stages(name, **option)


def _shapes(network, size):
  images = {s: jnp.zeros((1, *size, 3)) for s in network.streams}
  output, variables = jax.eval_shape(
    lambda key: network.init_with_output(key, images, train=False),
    jax.random.key(0),
  )
  return variables['params'], [x.shape for x in output]


@pytest.mark.parametrize('name', ['resnet_small', 'swin_mini'])
@pytest.mark.parametrize('split', range(6))
def test_any_split(name, split):
  network = MultiStream(backbone_stages(name), split, STREAMS)
  params, shapes = _shapes(network, (96, 48))
  private = {f'{s}_stage{i}' for s in STREAMS for i in range(split)}
  assert set(params) == private | {f'stage{i}' for i in range(split, 5)}
  assert len(shapes) == max(5 - split, 1)
  assert shapes[-1] == (2, *((6, 3) if name == 'resnet_small' else (3, 2)), 256)


@pytest.mark.parametrize('name', ['resnet_small', 'densenet121'])
def test_the_usual_last_stride_is_1(name):
  given, usual = (
    _shapes(MultiStream(backbone_stages(name, **o), 0, STREAMS[:1]), (64, 32))
    for o in ({'last_stride': 2}, {})
  )
  assert given[1][-1][1:3] == (2, 1)
  assert usual[1][-1][1:3] == (4, 2)


@pytest.mark.parametrize(
  ('width', 'inner'), [('released', (1, 1)), ('intended', (32, 64))]
)
def test_width_of_the_nonlocal_blocks(width, inner):
  stages = backbone_stages(
    'resnet_small', nonlocal_blocks=True, nonlocal_width=width
  )
  params, _ = _shapes(MultiStream(stages, 0, STREAMS[:1]), (64, 32))
  for stage, channels, expected in zip((2, 3), (64, 128), inner, strict=True):
    block = params[f'stage{stage}']['nonlocal0']
    for name in ('theta', 'phi', 'g'):
      assert block[name]['kernel'].shape == (channels, expected)
    assert block['out']['kernel'].shape == (expected, channels)


@pytest.mark.parametrize('name', NAMES)
def test_every_backbone_recomputes_if_told(name):
  x = jax.ShapeDtypeStruct((1, 64, 32, 3), jnp.float32)

  def program(remat):
    stem, stage, *_ = backbone_stages(name, remat=remat)

    def both(key, x):
      x, _ = stem('stage0').init_with_output(key, x, False)
      return stage('stage1').init_with_output(key, x, False)[0]

    return str(jax.make_jaxpr(both)(jax.random.key(0), x))

  assert 'remat' in program(True) and 'remat' not in program(False)
