import json

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from configs import xiv as xiv_config
from jaxreid import experiment, pictures


@pytest.fixture(scope='module')
def setup(tiny_data_dir):
  config = xiv_config.get_config('ablation=gray')
  config.dataset.update(
    {'config': 'tiny', 'data_dir': str(tiny_data_dir), 'image_size': (48, 24)}
  )
  return experiment.build(config)


def _visible(setup):
  rows = np.flatnonzero(setup.train.records.modality == 0)
  return np.asarray(setup.train.images[rows], np.float64)


def test_channel_means_are_those_of_every_visible_image(setup):
  means = pictures._channel_means(setup, {'params': {'backbone': {}}}, 50)
  visible = _visible(setup)
  assert means.keys() == {'visible', 'X'}
  np.testing.assert_allclose(
    means['visible'], visible.mean(axis=(1, 2)), rtol=1e-4
  )
  gray = (visible @ [0.299, 0.587, 0.114]).mean(axis=(1, 2))
  np.testing.assert_allclose(means['X'], gray[:, None].repeat(3, 1), rtol=1e-3)


def test_drawn_and_written(setup, tmp_path):
  drawn = pictures.draw(setup, {'params': {'backbone': {}}}, 64)
  pictures.write(tmp_path, 7, drawn)
  files = sorted((tmp_path / 'pictures').iterdir())
  assert [path.name for path in files] == ['channels.png', 'examples.png']
  for path in files:
    assert_array_equal(np.asarray(Image.open(path)), drawn[path.stem])
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 1
  # Below the titles: colour, then gray, then infrared of the same people.
  examples = drawn['examples'].astype(int)
  height = len(examples) // 3
  colored = [
    int(np.ptp(examples[i * height + 20 : (i + 1) * height], axis=2).max())
    for i in range(3)
  ]
  assert colored[0] > 60
  assert colored[1] == colored[2] == 0


def test_nothing_is_drawn_of_a_method_without_views(setup, tmp_path):
  method = setup.method._replace(views=None)
  drawn = pictures.draw(setup._replace(method=method), {}, 64)
  pictures.write(tmp_path, 7, drawn)
  assert not list(tmp_path.iterdir())


def test_side_by_side_keeps_every_pixel():
  rng = np.random.default_rng(0)
  a = rng.integers(0, 256, (3, 200, 10, 3)).astype(np.uint8)
  b = rng.uniform(-40, 300, (3, 200, 10, 3)).astype(np.float32)
  drawn = pictures.side_by_side({'a': a, 'b': b})
  assert drawn.dtype == np.uint8
  found = np.clip(b[1], 0, 255).round()
  height, width = (drawn.shape[0] // 2, drawn.shape[1] // 3)
  corner = drawn[2 * height - 200 :, 2 * width - 10 : 2 * width]
  assert_array_equal(corner, found)
  assert_array_equal(drawn[height - 200 : height, width - 10 : width], a[0])


def test_a_histogram_is_as_high_as_its_counts():
  means = np.full((40, 3), 100.0, np.float32)
  means[:, 1] = np.linspace(0, 255, 40)  # green is spread, red and blue are not
  drawn = pictures.histograms({'visible': means}).astype(int)
  white = (drawn == 255).all(axis=2)
  place = 12 + 6 * int(100 / 255 * pictures.BINS) + 3
  assert not white[25:215, place].any()
  # Of green alone: a low bar, at the bottom.
  beside = 12 + 6 * 50 + 3
  assert white[25:205, beside].all()
  assert not white[216, beside]


def test_the_axis_grows_with_the_values():
  inside = {'x': jnp.full((5, 3), 100.0), 'y': jnp.full((5, 3), 20.0)}
  outside = {**inside, 'y': jnp.full((5, 3), -50.0)}
  left, right = (
    pictures.histograms({k: np.asarray(v) for k, v in means.items()})
    for means in (inside, outside)
  )
  assert left.shape == right.shape
  assert (left != right).any()


@pytest.mark.slow
def test_a_run_says_what_x_became(start, finish, tiny_data_dir, tmp_path):
  flags = [
    '--config=configs/xiv.py',
    '--config.dataset.config=tiny',
    f'--config.dataset.data_dir={tiny_data_dir}',
    '--config.dataset.image_size=(48, 24)',
    '--config.batch.identities=4',
    '--config.method.padding=2',
    '--config.schedule.epochs=0.1',
    '--config.evaluation.batch_size=80',
    f'--workdir={tmp_path / "run"}',
  ]
  child = finish(start(*flags))
  assert child.returncode == 0, child.stderr
  assert '\nX = relu(' in child.stdout
  assert '\nmultiply-adds for an image of 48x24: g 0.000007 G' in child.stdout
  report = json.loads((tmp_path / 'run' / 'results.json').read_text())
  markdown = (tmp_path / 'run' / 'results.md').read_text()
  for fact in report['facts']:
    assert f'* {fact}\n' in markdown
  names = list(report['results'])
  for suffix in (', sum over modalities', ', first of modalities'):
    assert f'infrared->visible, all, single-shot{suffix}' in names
  assert 'infrared->infrared, all, multi-shot' in names
  drawn = (tmp_path / 'run' / 'pictures').iterdir()
  assert {path.stem for path in drawn} == {
    'channels',
    'examples',
    'ranked_lists',
    'training',
  }
