"""The picture has the right pixels in frames of the right colour."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxreid.evaluation.retrieval import RankedList
from jaxreid.ranked_lists import _FRAME, _GAP, _TEXT, GREEN, RED, draw


def make(query, gallery, right):
  distance = np.linspace(0.1, 0.9, len(gallery))
  return RankedList(query, np.array(gallery), distance, np.array(right), 0.5)


def test_images_and_frames():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (9, 64, 32, 3), np.uint8)
  lists = [
    make(8, [3, 1, 5], [True, False, True]),
    make(7, [2, 4], [False, False]),
  ]
  picture = draw(lists, images, 'infrared->visible')
  scale = 2
  width, height = 32 * scale + 2 * _FRAME, 64 * scale + 2 * _FRAME
  for i, found in enumerate(lists):
    top = _GAP + _TEXT + i * (height + _TEXT + _GAP)
    for j, row in enumerate([found.query, *found.gallery.tolist()]):
      left = _GAP + j * (width + _GAP) + (2 * _GAP if j else 0)
      box = picture[top : top + height, left : left + width]
      inside = box[_FRAME:-_FRAME, _FRAME:-_FRAME]
      assert_array_equal(inside[::scale, ::scale], images[row])
      color = tuple(box[0, 0].tolist())
      if j:
        assert color == (GREEN if found.right[j - 1] else RED)
      else:
        assert color not in (GREEN, RED)
      for edge in (box[:_FRAME], box[-_FRAME:], box[:, :_FRAME]):
        assert (edge == box[0, 0]).all()
  # Where the second list ends there is nothing but white.
  assert (picture[top : top + height, left + width :] == 255).all()


def test_no_lists_is_a_sentence():
  with pytest.raises(ValueError, match='no ranked lists'):
    draw([], np.zeros((1, 8, 4, 3), np.uint8))
