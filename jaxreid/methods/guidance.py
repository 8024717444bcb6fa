"""What a frozen teacher's feature maps cost its student: TS-GAN's third module.

Synopsis:

  weights = {'real': 0.003, 'fake': 0.003, 'cross': 0.006}
  total, terms = guidance(teacher, variables, images, maps, weights, 'mean')
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid import losses
from jaxreid.method import Variables
from jaxreid.models.streams import MultiStream

TEACHER = 'teacher'
# Term -> what the teacher sees, and what the student sees.
TERMS = {
  'real': ('infrared', 'infrared'),
  'fake': ('fake', 'fake'),
  'cross': ('fake', 'visible'),
}


def guidance(
  teacher: MultiStream,
  variables: Variables,
  images: Mapping[str, Float[Array, 'n h w 3']],
  maps: Mapping[str, Float[Array, 'n p q c']],
  weights: Mapping[str, float],
  reduction: str,
) -> tuple[Array, dict[str, Array]]:
  """L_TS (Eq. 16), and the terms of it that have a weight (Eq. 13 to 15).

  Args:
    teacher: the first stages of a backbone, whose variables are those of the
      player 'teacher'. It is in inference mode, and no gradient reaches it.
    variables: of the method.
    images: 'infrared' and 'fake', which the teacher sees.
    maps: the student's, of 'infrared', 'fake' and 'visible' images, after as
      many stages.
    weights: alpha of each term: 'real' (Eq. 13), 'fake' (14), 'cross' (15).
    reduction: as in `losses.feature_map_mse`.

  Returns:
    The weighted sum, and each term without its weight.
  """
  own = {
    'params': variables['params'][TEACHER],
    'batch_stats': variables['model_state'][TEACHER],
  }
  taught = {
    shown: teacher.apply(own, {'infrared': images[shown]}, False)[-1]
    for shown in sorted({TERMS[name][0] for name in weights})
  }
  terms, total = {}, jnp.zeros(())
  for name, weight in weights.items():
    shown, seen = TERMS[name]
    term = losses.feature_map_mse(maps[seen], taught[shown], reduction).mean()
    terms[f'teacher_{name}'] = term
    total += weight * term
  return total, terms
