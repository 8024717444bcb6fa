"""What stands beside an exported program: export.json and README.md.

Synopsis:

  facts = describe(embedder, 'stablehlo', programs, files, differences)
  write(folder, facts)

Who serves the program needs no more than this folder.
"""

import hashlib
import json
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import PIL

import jaxreid
from jaxreid.embedder import Embedder
from jaxreid.exports.program import INPUT, OUTPUT, Program
from jaxreid.exports.stablehlo import PLATFORMS

FACTS = 'export.json'
README = 'README.md'

RULES = {
  'channels': 'red, green, blue; a gray picture has the same value in all',
  'values': '0 to 255 as decoded; the program normalises, so do not',
  'orientation': 'upright: apply the EXIF rotation of a photograph before',
  'size': 'any; the program resizes to image_size with antialiasing (Lanczos, '
  'as Pillow does), so you need not. The pictures of a batch have one size',
  'content': 'one person, cut out as in the dataset that was trained on',
}

_RUN = {
  'stablehlo': """import jax.export
import numpy as np
from PIL import Image

with open('{file}', 'rb') as file:
  program = jax.export.deserialize(bytearray(file.read()))
embed = jax.jit(program.call)

pixels = np.asarray(Image.open('person.png').convert('RGB'))
vectors = np.asarray(embed(pixels[None]))
""",
  'onnx': """import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession('{file}')

pixels = np.asarray(Image.open('person.png').convert('RGB'))
(vectors,) = session.run(['{OUTPUT}'], {{'{INPUT}': pixels[None]}})
""",
  'savedmodel': """import numpy as np
import tensorflow as tf
from PIL import Image

embed = tf.saved_model.load('{file}').signatures['{modality}']

pixels = np.asarray(Image.open('person.png').convert('RGB'))
vectors = embed({INPUT}=tf.constant(pixels[None]))['{OUTPUT}'].numpy()
""",
}
# Where XLA compiles.
_SHAPES = {
  'shapes': 'each new shape of the input is compiled once, which takes '
  'seconds; where shapes vary, resize to image_size beforehand by the same '
  'rule, and pad batches to a few sizes'
}
_NEEDS = {
  'stablehlo': 'jax (of the version above, or up to six months younger), '
  'flatbuffers and Pillow',
  'onnx': 'onnxruntime and Pillow',
  'savedmodel': 'tensorflow and Pillow',
}
_DISTANCE = {
  'sum': 'the sum of the Euclidean distances over all pairs of a vector of one '
  'and a vector of the other',
  'plain': 'the Euclidean distance of the first vectors',
}


def describe(
  embedder: Embedder,
  kind: str,
  programs: Sequence[Program],
  files: Mapping[str, pathlib.Path],
  differences: Mapping[str, float],
) -> dict[str, Any]:
  """What export.json says.

  Args:
    embedder: that was exported.
    kind: the format.
    programs: one per modality.
    files: modality -> the file or folder that was written.
    differences: modality -> the largest difference of a value to the
      embedder's, as measured.
  """
  compiled = kind != 'onnx'
  return {
    'format': kind,
    'jaxreid': jaxreid.__version__,
    'jax': jax.__version__,
    'pillow': PIL.__version__,
    **({'platforms': list(PLATFORMS)} if compiled else {}),
    'checkpoint': {
      'workdir': embedder.workdir.name,
      'step': embedder.step,
      'identity': embedder.identity,
    },
    'image_size': list(embedder.image_size),
    'distance': _DISTANCE[embedder.test_distance],
    'rules': {**RULES, **(_SHAPES if compiled else {})},
    'programs': {
      program.modality: {
        'file': files[program.modality].name,
        'bytes': size_of(files[program.modality]),
        'sha256': _sha256(files[program.modality]),
        'input': {
          'name': INPUT,
          'dtype': 'uint8',
          'shape': ['batch', 'height', 'width', 3],
        },
        'output': {
          'name': OUTPUT,
          'dtype': 'float32',
          'shape': ['batch', *program.vectors],
        },
        'largest_difference': differences[program.modality],
      }
      for program in programs
    },
  }


def write(folder: pathlib.Path, facts: Mapping[str, Any]):
  """Writes both files."""
  text = json.dumps(facts, indent=2) + '\n'
  (folder / FACTS).write_text(text, encoding='utf-8')
  (folder / README).write_text(readme(facts), encoding='utf-8')


def readme(facts: Mapping[str, Any]) -> str:
  """The same for people, with an example that runs."""
  modality, first = next(iter(facts['programs'].items()))
  height, width = facts['image_size']
  kind, step = facts['format'], facts['checkpoint']['step']
  example = _RUN[kind].format(
    file=first['file'], modality=modality, INPUT=INPUT, OUTPUT=OUTPUT
  )
  rows = ''.join(
    f'| `{p["file"]}` | {name} | `{INPUT}`: uint8 [batch, height, width, 3] '
    f'| `{OUTPUT}`: float32 [batch, {p["output"]["shape"][1]}, '
    f'{p["output"]["shape"][2]}] |\n'
    for name, p in facts['programs'].items()
  )
  head = textwrap.fill(
    f'Step {step} of the run `{facts["checkpoint"]["workdir"]}`, exported by '
    f'jaxreid {facts["jaxreid"]} with jax {facts["jax"]}. `{FACTS}` says the '
    'same to programs. Its `identity` names the network: vectors of different '
    'identities do not compare.'
  )
  distance = textwrap.fill(
    f'Vectors have length 1. The distance of two pictures is '
    f'{facts["distance"]}; a short one is a likeness, not a proof of identity.'
  )
  rules = ''.join(
    textwrap.fill(
      f'{name}: {rule}.', initial_indent='- ', subsequent_indent='  '
    )
    + '\n'
    for name, rule in facts['rules'].items()
  )
  return f"""# A network that embeds people, as {kind}

{head}

| file | pictures | input | output |
| --- | --- | --- | --- |
{rows}
{distance}

Rules for the pictures; image_size is {height} x {width}, height first:

{rules}
Loading it needs {_NEEDS[kind]}; jaxreid is not needed:

```python
{example}```
"""


def size_of(path: pathlib.Path) -> int:
  """Bytes of a file, or of all files in a folder."""
  return sum(file.stat().st_size for file in _files(path))


def _sha256(path: pathlib.Path) -> str:
  """Of a file, or of those of a folder in the order of their names."""
  digest = hashlib.sha256()
  for file in _files(path):
    digest.update(file.read_bytes())
  return digest.hexdigest()


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_file():
    return [path]
  return sorted(file for file in path.rglob('*') if file.is_file())
