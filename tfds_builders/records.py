"""The record that every dataset of this package shares.

A builder yields `(record_key(...), record)` with the fields of `features()`:

    image     JPEG or PNG, three channels; where files are kept as they are,
              infrared ones may have a single one
    identity  person, unique over both splits of a dataset
    camera    1-based camera number
    modality  0 visible, 1 infrared
    location  place of the camera; images of equal locations are not compared
    indoor    whether the camera hangs indoors
    frame     0-based number of the image within identity and camera
"""

import numpy as np
import tensorflow_datasets as tfds

MODALITIES = ('visible', 'infrared')


def features(encoding: str | None = 'jpeg') -> tfds.features.FeaturesDict:
  """Returns the features of a record.

  Args:
    encoding: 'jpeg' or 'png'; None where a set has both.
  """
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(
        shape=(None, None, 3), encoding_format=encoding
      ),
      'identity': np.int64,
      'camera': np.int64,
      'modality': tfds.features.ClassLabel(names=list(MODALITIES)),
      'location': np.int64,
      'indoor': np.bool_,
      'frame': np.int64,
    }
  )


def record_key(split: str, identity: int, camera: int, frame: int) -> str:
  """Returns a record's key, such as 'train_0007_c3_0004'.

  The key is a function of stored fields, so that it can be told again from a
  prepared set, which keeps no keys.
  """
  return f'{split}_{identity:04d}_c{camera}_{frame:04d}'
