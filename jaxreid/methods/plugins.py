"""What adds to any method from outside: Method -> Method.

MAG and the multi-mask triplet of "A New Paradigm for Cross-Modality Person
Re-Identification", whose table 6 plugs them into the methods of others.

Synopsis:

  method = lupi(395, resnet_stages('resnet50'))
  method = with_exchange(with_multi_mask(method))

Methods know nothing of it: images are exchanged before `Method.augment` sees
them, and a loss takes the embeddings that `Aux.embeddings` hands out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from jaxreid import losses
from jaxreid.augment import exchange
from jaxreid.method import Aux, Batch, Key, LossFn, Method, Variables
from jaxreid.methods.baseline import PLAYER

# (modality -> [N, D], labels [N]) -> [N]
EmbeddingLoss = Callable[
  [Mapping[str, Float[Array, 'n d']], Int[Array, ' n']], Float[Array, ' n']
]
MODALITIES = ('visible', 'infrared')


def with_exchange(
  method: Method,
  *,
  probability: float = exchange.PROBABILITY,
  area: Sequence[float] = exchange.AREA,
  aspect: Sequence[float] = exchange.ASPECT,
) -> Method:
  """The method on pairs of images that exchange a rectangle (MAG).

  It happens to the raw pixels, before all other augmentation. Whatever else
  the method makes of a batch (LUPI's Z) is made of the original images, with
  the same draws: `augment` is a pure function, so it is called on both, and
  under `jax.jit` what is not used of either call is not computed.

  Args:
    method: any; images that its losses make themselves (XIV's X) are made of
      what they are given, and so of exchanged images.
    probability: as in `exchange`.
    area: as in `exchange`.
    aspect: as in `exchange`.

  Raises:
    ValueError: if a number is out of range.
  """
  exchange.check_ranges(probability, area, aspect)

  def augment(key: Key, batch: Batch) -> Batch:
    exchange_key, key = jax.random.split(key)
    visible, infrared = exchange.exchange(
      exchange_key,
      batch['visible'],
      batch['infrared'],
      probability,
      area,
      aspect,
    )
    exchanged = {**batch, 'visible': visible, 'infrared': infrared}
    views = method.augment(key, exchanged)
    return {
      **method.augment(key, batch),
      **{name: views[name] for name in MODALITIES if name in views},
    }

  return method._replace(augment=augment)


def with_embedding_loss(
  method: Method,
  player: str,
  loss: EmbeddingLoss,
  weight: float,
  name: str = 'embedding',
) -> Method:
  """The method with a term of its embeddings added to a player's objective.

  Args:
    method: any whose player hands out `Aux.embeddings`.
    player: whose objective, and hence whose parameters, the term is for.
    loss: (`Aux.embeddings`, labels [N]) -> [N], of which the mean counts.
    weight: of the term.
    name: of the term's metric, without its weight.

  Raises:
    ValueError: if the method has no such player.
  """
  if player not in method.losses:
    raise ValueError(
      f'the method has no player {player!r} with a loss; there are: '
      + ', '.join(method.losses)
    )
  own: LossFn = method.losses[player]

  def total(
    variables: Variables, batch: Batch, key: Key, outputs: Any
  ) -> tuple[Array, Aux]:
    value, aux = own(variables, batch, key, outputs)
    term = loss(aux.embeddings, batch['label']).mean()
    metrics = {**aux.metrics, name: term}
    return value + weight * term, aux._replace(metrics=metrics)

  # In place, as the order of the players is the order in which they move.
  return method._replace(losses={**method.losses, player: total})


def with_multi_mask(
  method: Method,
  *,
  weight: float = 1.0,
  margin: float = 0.3,
  spread_margin: float = 0.1,
  spread_weight: float = 0.5,
  triplet_weight: float = 1.0,
) -> Method:
  """The method with the multi-mask triplet, in both directions.

  Their sum, each the mean of `losses.multi_mask_triplet` over its anchors, of
  the embeddings that the method's own triplet sees.

  Args:
    method: any whose 'backbone' hands out embeddings of both modalities.
    weight: of the sum.
    margin: m1.
    spread_margin: m2.
    spread_weight: lambda; 0 leaves the positive part (MMTP) out.
    triplet_weight: 0 leaves the negative part (MMTN) out.

  Raises:
    ValueError: if the method has no player 'backbone'; when it is trained,
      if there are not embeddings of both modalities.
  """

  def both_ways(
    embeddings: Mapping[str, Float[Array, 'n d']], labels: Int[Array, ' n']
  ) -> Float[Array, ' n']:
    if not set(MODALITIES) <= set(embeddings):
      raise ValueError(
        'the multi-mask triplet compares visible with infrared embeddings, '
        f'and this method has only: {", ".join(sorted(embeddings))}'
      )
    visible, infrared = (embeddings[name] for name in MODALITIES)
    ways = ((visible, infrared), (infrared, visible))
    first, second = (
      losses.multi_mask_triplet(
        *way, labels, margin, spread_margin, spread_weight, triplet_weight
      )
      for way in ways
    )
    return first + second

  return with_embedding_loss(method, PLAYER, both_ways, weight, 'multi_mask')
