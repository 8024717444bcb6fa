"""What the README shows, runs."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[1] / 'README.md'


def test_the_example_of_a_loss_runs():
  (example,) = re.findall(r'```python\n(.*?)```', README.read_text(), re.S)
  names: dict = {}
  exec(example, names)
  assert names['gradient'].shape == (32, 64)
  assert np.isfinite(names['gradient']).all()
  assert np.abs(names['gradient']).max() > 0
  assert names['several'].shape == (2,)


def test_linked_files_exist():
  links = re.findall(r'\]\((?!http)([^)#]+)\)', README.read_text())
  assert links
  for link in links:
    assert (README.parent / link).exists(), link
