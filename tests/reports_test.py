"""Reports and model cards: what they measure, and what they do without."""

import html.parser
import json
import re

import ml_collections
import numpy as np
import pytest

from jaxreid import report
from jaxreid.data.source import Records, Table
from jaxreid.evaluation.embedding import Embedded
from jaxreid.evaluation.protocols import regdb
from jaxreid.reports import closing, data, figures, model_card, page
from jaxreid.reports.files import read_run

PEOPLE, SHOTS = 5, 4


@pytest.fixture(scope='module')
def table():
  """Five people, four images of each modality, from two cameras each."""
  identity = np.repeat(np.arange(PEOPLE) + 40, 2 * SHOTS)
  modality = np.tile(np.repeat([0, 1], SHOTS), PEOPLE)
  camera = 1 + 2 * modality + np.arange(len(identity)) % 2
  frame = np.arange(len(identity))
  records = Records(
    identity, camera, camera, modality, frame, np.zeros_like(frame)
  )
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (len(identity), 12, 6, 3), np.uint8)
  return Table(images, records, 'fingerprint')


@pytest.fixture(scope='module')
def embedded(table):
  rng = np.random.default_rng(1)
  centers = rng.normal(size=(PEOPLE, 7)).astype(np.float32)
  found = {}
  for name, code, count in (('visible', 0, 2), ('infrared', 1, 1)):
    rows = np.flatnonzero(table.records.modality == code)
    own = centers[table.records.identity[rows] - 40][:, None]
    noise = rng.normal(size=(len(rows), count, 7)).astype(np.float32)
    found[name] = Embedded(rows, own + 0.6 * noise + code)
  return found


@pytest.fixture(scope='module')
def collected(table, embedded):
  config = ml_collections.ConfigDict(
    {'seed': 0, 'evaluation': {'test_distance': 'plain'}}
  )
  searches = [regdb(table.records, 'infrared')]
  return data.collect(config, table, table, searches, embedded)


def result(**changes):
  found = {m: 50.0 for m in ('rank1', 'rank5', 'rank10', 'rank20', 'mAP')}
  found |= {'mINP': 40.0, 'rank1_std': 0.0, 'mAP_std': 0.0, 'draw': 'drawn'}
  found |= {'trials': 1, 'queries': 20, 'gallery': 20, 'cmc': [50.0, 80.0]}
  return {**found, **changes}


@pytest.fixture
def workdir(tmp_path):
  config = {
    'method': {'name': 'xiv'},
    'dataset': {'name': 'sysu_mm01', 'image_size': [12, 6]},
    'backbone': {'name': 'resnet50', 'pretrained': ''},
    'seed': 3,
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  return tmp_path


class Checker(html.parser.HTMLParser):
  """Tags that are opened are closed; nothing comes from elsewhere."""

  def __init__(self):
    super().__init__()
    self.open, self.sources, self.tags = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag not in ('meta', 'link', 'img', 'path', 'circle', 'rect'):
      self.open.append(tag)
    for name, value in attrs:
      if name in ('src', 'href') and not value.startswith('#'):
        self.sources.append(value)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    if tag in ('path', 'circle', 'rect'):
      return
    assert self.open.pop() == tag


def check(text):
  checker = Checker()
  checker.feed(text)
  assert not checker.open
  assert all(source.startswith('data:') for source in checker.sources)
  assert 'script' not in checker.tags
  assert not re.search(r'\b(nan|None)\b', re.sub(r'base64,[^"]*', '', text))
  return checker


def test_pairs_against_plain_loops(table, embedded, collected):
  (found,) = (
    d for d in collected['distances'] if d['pairs'] == 'visible - infrared'
  )
  same, others = [], []
  for i, v in zip(*embedded['visible'], strict=True):
    for j, t in zip(*embedded['infrared'], strict=True):
      pair = (
        same
        if table.records.identity[i] == table.records.identity[j]
        else others
      )
      pair.append(np.sqrt(((v[0] - t[0]) ** 2).sum()))
  assert found['count'] == [len(same), len(others)]
  assert found['mean_positive'] == pytest.approx(np.mean(same), abs=1e-4)
  assert found['mean_negative'] == pytest.approx(np.mean(others), abs=1e-4)
  nearer = np.mean([[a < b for b in others] for a in same])
  assert found['nearer'] == pytest.approx(nearer, abs=1e-4)
  assert sum(found['positive']) == pytest.approx(1, abs=1e-3)


def test_pairs_within_a_modality_are_of_two_cameras(table, embedded, collected):
  (found,) = (
    d for d in collected['distances'] if d['pairs'] == 'visible - visible'
  )
  rows = embedded['visible'].rows
  camera, identity = table.records.camera, table.records.identity
  count = [0, 0]
  for a, i in enumerate(rows):
    for j in rows[a + 1 :]:
      count[int(identity[i] != identity[j])] += camera[i] != camera[j]
  assert found['count'] == count and not found['same_place']


def test_map_keeps_distances_of_two_dimensions(collected):
  assert collected['map']['sets'] == [
    'visible',
    'visible, embedding 2',
    'infrared',
  ]
  assert len(collected['map']['points']) == 3 * PEOPLE * SHOTS
  rng = np.random.default_rng(2)
  vectors = np.zeros((9, 5))
  vectors[:, :2] = rng.normal(size=(9, 2)) @ rng.normal(size=(2, 2))
  part = data._Set('a', 0, vectors, np.arange(9), np.arange(9))
  drawn = np.array([p[:2] for p in data._map([part])['points']])
  for i in range(9):
    for j in range(9):
      wanted = np.linalg.norm(vectors[i] - vectors[j])
      assert np.linalg.norm(drawn[i] - drawn[j]) == pytest.approx(
        wanted, abs=1e-3
      )


def test_lists_and_counts(table, collected):
  lists = collected['lists']
  assert set(lists) == {'random', 'best', 'worst'}
  best = [found['average_precision'] for found in lists['best']]
  worst = [found['average_precision'] for found in lists['worst']]
  assert best == sorted(best, reverse=True) and max(worst) <= min(best)
  for which in ('best', 'worst'):
    assert len({found['query']['identity'] for found in lists[which]}) == 4
  for found in lists['worst']:
    distances = [place['distance'] for place in found['places']]
    assert len(distances) == 10 and distances == sorted(distances)
    for place in found['places']:
      same = place['identity'] == found['query']['identity']
      assert place['right'] == same
  cameras = collected['counts']['test']
  assert sum(c['images'] for c in cameras) == len(table.images)
  assert [c['modality'] for c in cameras] == ['visible'] * 2 + ['infrared'] * 2
  json.loads(json.dumps(collected, allow_nan=False))


def test_a_whole_page(workdir, collected):
  data.write(workdir, collected)
  results = {
    'results': {
      'gray->gray, all, multi-shot': result(),
      'infrared->visible, all, single-shot': result(rank1=33.3, rank1_std=1.25),
    },
    'parameters_at_test': 1_250_000,
    'facts': ['X = relu(<0.3> R)'],
    'checkpoint': {'step': 40},
    'git_commit': 'abc',
    'dataset_fingerprint': 'def',
    'jaxreid': '0',
  }
  (workdir / 'results.json').write_text(json.dumps(results))
  lines = [{'step': s, 'loss': 9.0 - s, 'accuracy': s / 9} for s in (1, 4, 8)]
  text = '\n'.join(map(json.dumps, lines)) + '\n{"step": 9, "lo'
  (workdir / 'metrics.jsonl').write_text(text)
  closing.write_pages(workdir)
  written = (workdir / 'report.html').read_text()
  check(written)
  assert written.count('class="right"') + written.count('class="wrong"') == 120
  assert '33.3 %' in written
  whole = re.sub('</?span>', '', written)
  assert 'rank-1, infrared-&gt;visible, all, single-shot' in whole
  assert 'X = relu(&lt;0.3&gt; R)' in written
  assert '<b>loss</b>, last 1' in written
  assert 'mode=evaluate adds it' in written  # of pictures alone
  assert written.count('mode=evaluate adds it') == 1
  card = (workdir / 'MODEL_CARD.md').read_text()
  assert 'signed' in card and 'must not be passed on' in card
  assert '33.30' in card and '5 people' in card and 'personal data' in card


def test_what_is_missing_is_said(workdir):
  check(page.make_page(read_run(workdir)))
  card = model_card.make_card(read_run(workdir))
  assert 'Not evaluated yet' in card
  run = read_run(workdir)
  run.config['dataset']['name'] = 'somebody_elses'
  assert 'Unknown: ask its owners' in model_card.make_card(run)
  run.config['dataset']['name'] = 'synthetic_reid'
  assert 'No licence is needed' in model_card.make_card(run)


def test_the_command(workdir, tmp_path, capsys):
  report.main([str(workdir), f'--out={tmp_path / "page.html"}'])
  check((tmp_path / 'page.html').read_text())
  with pytest.raises(SystemExit) as ended:
    report.main([str(tmp_path / 'nothing')])
  assert ended.value.code == 1
  assert 'holds no run' in capsys.readouterr().err


def test_ticks_are_round_and_inside():
  for low, high in ((0.0, 1.0), (-3.2, 7.9), (1e-6, 3e-6), (0.0, 25e3)):
    ticks = figures._ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert low - 1e-9 <= min(ticks) and max(ticks) <= high * (1 + 1e-9)
    step = (ticks[1] - ticks[0]) / 10 ** np.floor(
      np.log10(ticks[1] - ticks[0]) + 1e-9
    )
    assert round(float(step), 6) in (1, 2, 5)


def test_curves_leave_out_what_is_not_finite():
  drawn = figures.lines({'a': [(1.0, 2.0), (2.0, np.nan), (3.0, 4.0)]}, 'step')
  (points,) = re.findall(r'points="([^"]*)"', drawn)
  assert len(points.split()) == 2
  assert 'No finite' in figures.lines({'a': [(1.0, np.nan)]}, 'step')
  assert 'circle' in figures.lines({'a': [(1.0, 2.0)]}, 'step')


def test_a_map_has_one_unit_on_both_axes():
  points = [(0.0, 0.0, 0, 0), (9.0, 0.0, 0, 1), (0.0, 2.0, 0, 2)]
  drawn = figures.scatter(points, ['a', 'b', 'c'])
  marks = re.findall(r'c(\d)" cx="([\d.]+)" cy="([\d.]+)"', drawn)
  place = {int(c): (float(x), float(y)) for c, x, y in marks}
  right, up = place[1][0] - place[0][0], place[0][1] - place[2][1]
  assert right / 9 == pytest.approx(up / 2, rel=0.01)
  assert right > 0.9 * (figures.WIDE - 60)
  # One point, or all in one place, is in the middle of the frame.
  (x,) = re.findall(r'cx="([\d.]+)"', figures.scatter(points[:1], ['a']))
  assert 200 < float(x) < 280


@pytest.mark.parametrize(
  ('dataset', 'owner', 'terms'),
  [
    ('sysu_mm01', 'Sun Yat-sen University', 'signed agreement'),
    ('regdb', 'Dongguk University', 'signed form'),
    ('npu_reid', 'NPU-ReID', 'academic research only'),
    ('synthetic_reid', 'rendered figures', 'No licence is needed'),
  ],
)
def test_a_card_has_every_section(workdir, collected, dataset, owner, terms):
  run = read_run(workdir)
  run.config['dataset']['name'] = dataset
  results = {'results': {'infrared->visible': result(mAP=12.34)}}
  card = model_card.make_card(run._replace(results=results, data=collected))
  parts = re.split(r'^## (.+)$', card, flags=re.M)
  texts = [' '.join(part.split()) for part in parts[2::2]]
  sections = dict(zip(parts[1::2], texts, strict=True))
  assert list(sections) == [
    'What it was made from',
    'Data',
    'Intended use',
    'Limits',
    'Results',
    'Privacy',
  ]
  assert owner in sections['Data'] and terms in sections['Data']
  assert 'train: 5 people, 20 visible and 20 infrared' in sections['Data']
  rendered = dataset == 'synthetic_reid'
  assert ('of no use' in sections['Intended use']) == rendered
  assert ('trained networks' in sections['Data']) != rendered
  assert '12.34' in sections['Results']
  assert 'lawful' in sections['Privacy']
  assert 'None' not in card and max(map(len, card.splitlines())) <= 90


def test_small_distances_have_three_digits(workdir, collected):
  small = json.loads(json.dumps(collected))
  for lists in small['lists'].values():
    for found in lists:
      for i, place in enumerate(found['places']):
        place['distance'] = 0.0601 + 0.0001 * i
  page_of = page.make_page(read_run(workdir)._replace(data=small))
  assert '>✓ 0.0601<' in page_of or '>✗ 0.0601<' in page_of
  assert '0.0610<' in page_of
