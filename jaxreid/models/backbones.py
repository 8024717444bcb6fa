"""One function for every backbone.

Synopsis:

  stages = backbone_stages('resnet50', nonlocal_blocks=True)
  stages = backbone_stages('swin_tiny')
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxreid.models import densenet, resnet, swin

NAMES = resnet.NAMES + densenet.NAMES + swin.NAMES


def backbone_stages(
  name: str,
  *,
  last_stride: int | None = None,
  stem_relu: bool = True,
  nonlocal_blocks: bool = False,
  nonlocal_width: str = 'released',
  drop_path: float = 0.0,
  dtype: DTypeLike | None = jnp.float32,
  remat: bool = False,
) -> tuple[Callable[[str], nn.Module], ...]:
  """The five stages of any backbone, as factories for `MultiStream`.

  An option that a family does not have may be given its default only: nothing
  is silently ignored.

  Args:
    name: one of `NAMES`.
    last_stride: 1 or 2, of ResNets and DenseNets; None for 1, and for a Swin,
      whose last stage always has half the resolution (2 may be said, too).
    stem_relu: of ResNets, see `resnet_stages`.
    nonlocal_blocks: of ResNets.
    nonlocal_width: of ResNets.
    drop_path: of Swins, see `swin_stages`.
    dtype: of the computation, e.g. `jnp.bfloat16`; parameters are float32.
    remat: recompute each block in the backward pass.

  Returns:
    As `resnet_stages`, `densenet_stages` and `swin_stages`.

  Raises:
    ValueError: on an unknown name, listing the known ones, or an option that
      the backbone does not have; fields are named as in a config.
  """
  given: dict[str, Any] = {'dtype': dtype, 'remat': remat}
  if name in swin.NAMES:
    if last_stride not in (None, 2):
      raise ValueError(
        f'backbone.last_stride must be 2 with {name}, not {last_stride}: a '
        'Swin cannot do without its last patch merging'
      )
    _refuse(name, stem_relu, nonlocal_blocks, nonlocal_width, 0.0)
    return swin.swin_stages(name, drop_path=drop_path, **given)
  given['last_stride'] = 1 if last_stride is None else last_stride
  if given['last_stride'] not in (1, 2):
    raise ValueError(f'backbone.last_stride must be 1 or 2, not {last_stride}')
  if name in densenet.NAMES:
    _refuse(name, stem_relu, nonlocal_blocks, nonlocal_width, drop_path)
    return densenet.densenet_stages(name, **given)
  if name in resnet.NAMES:
    _refuse(name, True, False, 'released', drop_path)
    return resnet.resnet_stages(
      name,
      stem_relu=stem_relu,
      nonlocal_blocks=nonlocal_blocks,
      nonlocal_width=nonlocal_width,
      **given,
    )
  raise ValueError(
    f'Unknown backbone {name!r}; backbone.name may be: ' + ', '.join(NAMES)
  )


def _refuse(
  name: str,
  stem_relu: bool,
  nonlocal_blocks: bool,
  nonlocal_width: str,
  drop_path: float,
):
  """Raises ValueError unless all is as if it had not been given."""
  for option, value, default, family in (
    ('stem_relu', stem_relu, True, 'a ResNet'),
    ('nonlocal_blocks', nonlocal_blocks, False, 'a ResNet'),
    ('nonlocal_width', nonlocal_width, 'released', 'a ResNet'),
    ('drop_path', drop_path, 0.0, 'a Swin'),
  ):
    if value != default:
      raise ValueError(
        f'backbone.{option} must be {default!r} with {name}, not {value!r}: '
        f'only {family} has it'
      )
