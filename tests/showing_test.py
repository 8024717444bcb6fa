"""What a run shows of itself is there, and a fault in it loses no results."""

import json

import pytest
from PIL import Image

from configs import lupi
from jaxreid import pictures, train
from jaxreid.reports import closing, data


@pytest.fixture(scope='module')
def run(tiny_data_dir, tmp_path_factory):
  """Hardly trained: what it finds is chance, and quickly there."""
  config = lupi.get_config()
  config.dataset.config = 'tiny'
  config.dataset.data_dir = str(tiny_data_dir)
  config.dataset.image_size = (24, 12)
  config.backbone.name = 'resnet_small'
  config.backbone.nonlocal_blocks = False
  config.batch.identities = 2
  config.schedule.epochs = 0.01
  config.method.padding = 2
  opened = train.open_run(config, tmp_path_factory.mktemp('showing') / 'run')
  train.train(opened)
  return opened


def test_a_run_ends_with_pictures_a_report_and_a_card(run, capsys):
  results = train.evaluate(run)['results']
  assert 'warning' not in capsys.readouterr().err
  with Image.open(run.workdir / 'pictures' / 'training.png') as picture:
    height, width = picture.size[1], picture.size[0]
  assert width > height  # a row of people for each of three sets
  measured = data.read(run.workdir)
  assert {'counts', 'lists', 'map', 'distances'} <= measured.keys()
  page = (run.workdir / 'report.html').read_text()
  card = (run.workdir / 'MODEL_CARD.md').read_text()
  assert 'There is no' not in page and 'adds it' not in page
  for name, result in results.items():
    assert name.replace('>', '&gt;') in page and name in card
    assert f'{result["rank1"]:.2f}' in page and f'{result["mAP"]:.2f}' in card
    # The curve and the numbers are of the same lists.
    assert result['cmc'][0] == pytest.approx(result['rank1'])
    assert result['cmc'][9] == pytest.approx(result['rank10'])
    assert list(result['cmc']) == sorted(result['cmc'])


@pytest.mark.parametrize(
  ('module', 'name', 'said', 'kept'),
  [
    (pictures, 'draw_training', 'the pictures', 'report.html'),
    (closing, 'write', 'the report', 'pictures/training.png'),
  ],
)
def test_a_fault_loses_no_results(
  run, monkeypatch, capsys, module, name, said, kept
):
  def fail(*arguments):
    raise KeyError('lost')

  for path in (run.workdir / 'results.json', run.workdir / kept):
    path.unlink(missing_ok=True)
  monkeypatch.setattr(module, name, fail)
  report = train.evaluate(run)
  written = json.loads((run.workdir / 'results.json').read_text())
  assert written['results'].keys() == report['results'].keys()
  told = capsys.readouterr().err
  assert f'warning: {said} of {run.workdir} could not be made' in told
  assert "KeyError: 'lost'" in told and 'showing_test.py' in told
  assert (run.workdir / kept).exists()
