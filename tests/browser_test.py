"""The pages in a real browser: nothing missing, nothing wider than a phone.

Needs Chromium; skipped where there is none.
"""

import json
import re
import shutil
import subprocess

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxreid.data.source import Records, Table
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import regdb
from jaxreid.reports import data, page
from jaxreid.search_index import Entry, Found
from jaxreid.search_page import Answer, make_page

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
  pytest.mark.browser,
  pytest.mark.skipif(BROWSER is None, reason='there is no Chromium'),
]

MEASURE = """<script>addEventListener('load', () => console.log('MEASURED' +
  JSON.stringify({room: document.documentElement.clientWidth,
    needed: document.documentElement.scrollWidth,
    images: document.images.length,
    broken: [...document.images].filter(i => !i.naturalWidth).length})))
</script>"""


def look(text, folder, width):
  """What a browser says of a page in a window of so many pixels."""
  assert text.count('</body>') == 1
  (folder / 'page.html').write_text(
    text.replace('</body>', MEASURE + '</body>')
  )
  # Windows are never as narrow as a phone, frames are.
  frame = f'<iframe src="page.html" width="{width}" height="800"></iframe>'
  (folder / 'frame.html').write_text(f'<!doctype html>{frame}')
  done = subprocess.run(
    [
      BROWSER,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--enable-logging=stderr',
      f'--user-data-dir={folder / "profile"}',
      '--virtual-time-budget=5000',
      '--window-size=1400,900',
      '--dump-dom',
      (folder / 'frame.html').as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  lines = [
    line for line in done.stderr.splitlines() if re.search(r':CONSOLE\b', line)
  ]
  assert len(lines) == 1, done.stderr
  return json.loads(re.search(r'MEASURED(\{.*?\})', lines[0])[1])


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  """The page of a run with results, curves, lists, maps and a picture."""
  people, shots = 12, 4
  identity = np.repeat(np.arange(people), 2 * shots)
  modality = np.tile(np.repeat([0, 1], shots), people)
  camera = 1 + 2 * modality + np.arange(len(identity)) % 2
  zeros = np.zeros_like(identity)
  records = Records(identity, camera, camera, modality, zeros, zeros)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (len(identity), 48, 24, 3), np.uint8)
  table = Table(images, records, 'fingerprint')
  embedded = {}
  for name, code in (('visible', 0), ('infrared', 1)):
    rows = np.flatnonzero(modality == code)
    vectors = rng.normal(size=(len(rows), 2 - code, 7)).astype(np.float32)
    embedded[name] = Embedded(rows, vectors)
  workdir = tmp_path_factory.mktemp('run')
  config = ml_collections.ConfigDict(
    {
      'method': {'name': 'xiv'},
      'dataset': {'name': 'npu_reid', 'image_size': (48, 24)},
      'evaluation': {'test_distance': 'sum'},
      'seed': 0,
    }
  )
  searches = [regdb(records, 'infrared')]
  data.write(workdir, data.collect(config, table, table, searches, embedded))
  (workdir / 'config.json').write_text(config.to_json())
  result = dict.fromkeys(
    ('rank1', 'rank5', 'rank10', 'rank20', 'mAP', 'mINP'), 43.21
  )
  result |= {'rank1_std': 1.23, 'mAP_std': 4.56, 'draw': 'by a long sentence'}
  result |= {'trials': 10, 'queries': 3803, 'gallery': 13337}
  result |= {'cmc': [20.0, 40.0, 50.0]}
  name = (
    'infrared->visible, indoor, single-shot, sum over modalities, re-ranked'
  )
  results = {'results': {name: result, 'gray->gray, all, multi-shot': result}}
  (workdir / 'results.json').write_text(json.dumps(results))
  lines = [json.dumps({'step': s, 'loss': 1e-5 * s}) for s in (1, 1500)]
  (workdir / 'metrics.jsonl').write_text('\n'.join(lines))
  (workdir / 'pictures').mkdir()
  Image.fromarray(images[:8].reshape(-1, 24, 3).transpose(1, 0, 2)).save(
    workdir / 'pictures' / 'training.png'
  )
  page.write(workdir)
  return (workdir / 'report.html').read_text()


@pytest.mark.parametrize('width', [360, 1280])
def test_a_report(report, tmp_path, width):
  found = look(report, tmp_path, width)
  assert found['needed'] <= found['room']
  assert found['images'] == 12 * 11 + 1 and not found['broken']


@pytest.mark.parametrize('width', [360, 1280])
def test_a_page_of_a_search(tmp_path, width):
  path = tmp_path / f'{"a_very_long_name_without_any_space_" * 4}.jpg'
  Image.new('RGB', (30, 60), 'green').save(path)
  entry = Entry(str(path), 1, 1, '', 'visible')
  gone = entry._replace(path=str(tmp_path / 'gone.jpg'))
  found = [Found(1.25, entry), Found(1.5, gone)] * 5
  answer = Answer(str(path), 'infrared', True, found)
  seen = look(make_page([answer, answer], 'people'), tmp_path, width)
  assert seen['needed'] <= seen['room']
  assert seen['images'] == 12 and not seen['broken']
