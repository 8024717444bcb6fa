"""How the site is built from docs/*.md and the docstrings.

  pip install -e '.[docs]'
  sphinx-build -W --keep-going -n docs build/docs

Nothing is fetched when a page is read: no fonts, no scripts from elsewhere.
Formulas become MathML, which browsers draw themselves.
"""

import ast
import html
import pathlib
import re
import sys
import textwrap

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.domains.python import PyObject
from sphinx.util import logging

# configs is a folder beside the package, not a part of it.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxreid

project = 'jaxreid'
release = jaxreid.__version__
html_title = 'jaxreid'
extensions = [
  'myst_parser',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
]

html_theme = 'furo'
html_static_path = ['_static']
html_css_files = ['site.css']
html_theme_options = {'top_of_page_buttons': []}
html_show_copyright = False
html_math_renderer = 'mathml'
highlight_language = 'none'

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4

# Docstrings are written for people: Google's sections, `code` in single
# backticks, examples indented below a line of text.
default_role = 'code'
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
autodoc_default_options = {'members': True}
add_module_names = False
python_use_unqualified_type_names = True
# -n is for the links of the text. Types of other packages lead nowhere.
nitpick_ignore_regex = [('py:(class|exc|obj|data)', '.*')]

_logger = logging.getLogger(__name__)


def fence_examples(
  app: object, what: str, name: str, thing: object, options: object, lines: list
):
  """Marks indented blocks of a docstring as code, which RST would quote."""
  del app, what, name, thing, options
  fenced: list[str] = []
  for number, line in enumerate(lines):
    before = lines[number - 1] if number else ''
    if line.startswith('  ') and not before.strip() and not _inside(fenced):
      end = next(
        (n for n in range(number, len(lines)) if lines[n][:1].strip()),
        len(lines),
      )
      language = _language(lines[number:end])
      fenced += [f'.. code-block:: {language}', '']
    fenced.append(line)
  lines[:] = fenced


def _inside(lines: list[str]) -> bool:
  """Whether an indented line goes on with the block before it."""
  last = next((line for line in reversed(lines) if line.strip()), '')
  return last.startswith((' ', '* ', '- ', '1.', '.. '))


def _language(block: list[str]) -> str:
  text = textwrap.dedent('\n'.join(block))
  if text.startswith(('python ', 'pip ')):
    return 'sh'
  try:
    ast.parse(text)
  except SyntaxError:
    return 'text'
  return 'python'


def shorten_signature(
  app: object,
  what: str,
  name: str,
  thing: object,
  options: object,
  signature: str | None,
  returned: str | None,
):
  """Arrays by the name that the source gives them."""
  del app, what, name, thing, options
  return tuple(
    text and text.replace('jaxlib._jax.', '') for text in (signature, returned)
  )


def skip_fields(
  app: object, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
  """Leaves out fields of named tuples: the docstring lists them."""
  del app, what, name, options
  return True if type(thing).__name__ == '_tuplegetter' else None


def _split_tag(text: str) -> tuple[str, str]:
  """A formula without its number, and the number, which MathML lacks."""
  found = re.search(r'\\tag\{([^}]*)\}', text)
  if not found:
    return text, ''
  number = f'<span class="number">({html.escape(found[1])})</span>'
  return text.replace(found[0], ''), number


def _draw(block: bool):
  def visit(translator, node: nodes.Element):
    text, number = _split_tag(node.astext())
    try:
      drawn = str(tex2mathml(text, as_block=block))
    except MathError as error:
      _logger.warning('%s: %s', error, text, location=node)
      drawn = html.escape(text)
    if block:
      drawn = f'<div class="equation"><div>{drawn}</div>{number}</div>'
    translator.body.append(drawn)
    raise nodes.SkipNode

  return visit


class Builder(StandaloneHTMLBuilder):
  """HTML whose search page is find.html: search.html is a page of ours."""

  name = 'html'

  def handle_page(
    self, pagename, addctx, templatename='page.html', **options
  ) -> None:
    """Writes a page."""
    if templatename == 'search.html':
      pagename = 'find'
    super().handle_page(pagename, addctx, templatename, **options)


def lead_to_find(
  app: object, pagename: str, templatename: str, context: dict, tree: object
):
  """Lets the search field of every page lead to find.html."""
  del app, pagename, templatename, tree
  pathto = context['pathto']
  context['pathto'] = lambda name, *rest: pathto(
    'find' if name == 'search' else name, *rest
  )


def setup(app):
  """Connects the above."""
  app.add_builder(Builder, override=True)
  for field in PyObject.doc_field_types:
    if field.name == 'variable':
      field.label = 'Attributes'
  app.connect('html-page-context', lead_to_find)
  app.connect('autodoc-process-docstring', fence_examples, priority=400)
  app.connect('autodoc-process-signature', shorten_signature)
  app.connect('autodoc-skip-member', skip_fields)
  app.add_html_math_renderer(
    'mathml', (_draw(False), None), (_draw(True), None)
  )
