"""What docs/ and docstrings show: links lead somewhere, examples run."""

import doctest
import importlib
import pathlib
import re
import sys
import types

import jax
import pytest

from jaxreid import config_checks, experiment, losses

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
LINKED = [*PAGES, *ROOT.glob('*.md'), *ROOT.glob('tfds_builders/*/README.md')]
MODULES = [
  path
  for path in sorted((ROOT / 'jaxreid').rglob('*.py'))
  if re.search(r'^ *>>> ', path.read_text(), re.MULTILINE)
]
# Pages whose Python is not run by the test of all pages, and why.
RUN_ELSEWHERE = {
  'exchange.md': 'tests/augment/exchange_test.py',
  'export.md': 'needs a trained run',
  'new_method.md': 'below',
  'search.md': 'needs a trained run; tests/embedder_test.py has the class',
  'tutorial.md': 'needs a trained run',
}


def _name(path):
  return path.relative_to(ROOT).as_posix()


def _prose(path):
  """The page without its code."""
  text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.S)
  return re.sub(r'`[^`\n]*`', 'code', text)


def _anchors(path):
  """The anchors that headings get, by GitHub's rule."""
  text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.S)
  found = set()
  for heading in re.findall(r'^#+ (.*)$', text, re.M):
    plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
    found.add(re.sub(r'[^\w\- ]', '', plain).replace(' ', '-'))
  return found


def _python(name):
  """The examples of a page."""
  return re.findall(r'```python\n(.*?)```', (DOCS / name).read_text(), re.S)


def _find(name):
  """The object of a dotted name; AttributeError if there is none."""
  parts = name.split('.')
  for count in range(len(parts), 0, -1):
    try:
      found = importlib.import_module('.'.join(parts[:count]))
    except ModuleNotFoundError:
      continue
    for part in parts[count:]:
      found = found.__annotations__.get(part) or getattr(found, part)
    return found
  raise AttributeError(name)


def test_there_are_pages_and_examples():
  assert len(PAGES) > 15
  assert len(MODULES) >= 5


@pytest.mark.parametrize('page', LINKED, ids=_name)
def test_links_lead_somewhere(page):
  links = re.findall(r'\]\(\s*<?([^)>\s]+)', _prose(page))
  for link in links:
    if re.match(r'https?:', link):
      continue
    if link.startswith('#jaxreid.'):
      assert _find(link[1:]) is not None
      continue
    target, _, anchor = link.partition('#')
    path = (page.parent / target) if target else page
    assert path.exists(), f'{_name(page)}: {link}'
    if anchor and path.suffix == '.md':
      assert anchor in _anchors(path), f'{_name(page)}: {link}'


def test_every_page_is_in_the_contents():
  listed = set()
  for page in PAGES:
    for block in re.findall(
      r'```\{toctree\}\n(.*?)```', page.read_text(), re.S
    ):
      lines = [e for e in block.splitlines() if e and not e.startswith(':')]
      entries = [re.sub(r'.*<(.*)>', r'\1', line) for line in lines]
      listed |= {(page.parent / f'{entry}.md').resolve() for entry in entries}
  pages = {page for page in PAGES if page.name != 'README.md'}
  missing = pages - listed - {DOCS / 'index.md'}
  assert not missing, 'add to a toctree of docs/index.md: ' + str(missing)


def test_the_reference_names_what_there_is():
  text = '\n'.join(p.read_text() for p in (DOCS / 'reference').glob('*.md'))
  named = re.findall(r'\.\. auto(?:module|function|class):: (\S+)', text)
  for name in named:
    assert _find(name) is not None
  assert {f'jaxreid.losses.{name}' for name in losses.__all__} <= set(named)


@pytest.mark.parametrize('path', MODULES, ids=_name)
def test_examples_of_docstrings(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  module = importlib.import_module('.'.join(parts))
  shown = len(re.findall(r'^ *>>> ', path.read_text(), re.MULTILINE))
  results = doctest.testmod(module)
  assert results.failed == 0
  assert results.attempted == shown  # none overlooked, of jitted functions too


def test_examples_of_pages():
  for page in DOCS.glob('*.md'):
    if page.name not in RUN_ELSEWHERE:
      names: dict = {}
      for example in _python(page.name):
        exec(example, names)


def test_the_new_method_of_the_docs(monkeypatch):
  method, config, test = _python('new_method.md')
  module = types.ModuleType('jaxreid.methods.paired')
  exec(method, module.__dict__)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  names: dict = {}
  exec(config, names)
  settings = names['get_config']('dataset=regdb,trial=3')
  assert settings.dataset.config == 'trial_3'
  config_checks.check_values(settings)
  del settings.method['test_feature']
  with pytest.raises(ValueError, match='lacks method'):
    config_checks.check_values(settings)
  settings = names['get_config']()
  monkeypatch.setitem(experiment.METHODS, 'paired', module.paired)
  assert experiment.make_method(settings, 7).losses.keys() == {'backbone'}
  exec(test, names)
  # A program that runs once is not worth optimising.
  monkeypatch.setattr(jax, 'jit', _quick_jit(jax.jit))
  names['test_the_pairs_count_by_their_weight']()


def _quick_jit(jit):
  options = {'xla_backend_optimization_level': 0}
  return lambda f, **given: jit(f, compiler_options=options, **given)
