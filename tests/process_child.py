"""One process of several: a few steps of a tiny method, for processes_test.

  python tests/process_child.py OUT.npz 127.0.0.1:1234 2 0

runs process 0 of 2; with 0 processes, one that knows of no others.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import optim, processes, sharding, train_state
from jaxreid.data.feed import open_feed
from jaxreid.data.sampler import IdentitySampler
from jaxreid.data.source import INFRARED, VISIBLE, Records
from jaxreid.evaluation.embedding import embed_all
from jaxreid.methods.lupi import lupi
from jaxreid.models.resnet import BasicBlock, ResidualStage, Stem
from jaxreid.train_step import make_train_step

OPTIONS = {'xla_backend_optimization_level': 0}  # they run a few times only
OPTIMIZERS = {'backbone': optim.sgd(0.02)}
STEPS = 20


def table():
  """12 people of 5 images in each modality."""
  identity, modality = np.array(
    [(i, m) for i in range(12) for m in (VISIBLE, INFRARED) for _ in range(5)]
  ).T
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (len(identity), 32, 16, 3)).astype(np.uint8)
  images[::2] //= 2
  zeros = np.zeros_like(identity)
  return images, Records(identity, zeros, zeros, modality, zeros, zeros)


def stages(dtype):
  return (
    lambda name: Stem(4, dtype=dtype, name=name),
    lambda name: ResidualStage(BasicBlock, 8, 1, 2, 1, dtype=dtype, name=name),
  )


def run(dtype, steps):
  """Losses, last variables and embeddings, on the host."""
  mesh = sharding.make_mesh()
  whole = sharding.replicated(mesh)
  method = lupi(12, stages(dtype), split=1, padding=2)
  images, records = table()
  sampler = IdentitySampler(records, 4, 4, seed=3)
  feed = open_feed(images, sampler, mesh, 'host')
  rows = sampler[0]
  batch = {name: images[rows[name]] for name in ('visible', 'infrared')}
  create = functools.partial(train_state.create, method, OPTIMIZERS)
  first = jax.jit(create, compiler_options=OPTIONS)(
    jax.random.key(0), {**batch, 'label': rows['label']}
  )
  wide = jax.tree.map(
    lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, first
  )
  state = jax.device_put(jax.tree.map(np.asarray, wide), whole)
  step = jax.jit(
    make_train_step(method, OPTIMIZERS),
    donate_argnums=0,
    out_shardings=(whole, whole),
    compiler_options=OPTIONS,
  )
  key = jax.jit(lambda: jax.random.key(4), out_shardings=whole)()
  losses = []
  for _, inputs in zip(range(steps), feed.inputs(0), strict=False):
    state, metrics = step(state, inputs, key)
    losses.append(float(metrics['loss']))
  embed = jax.tree_util.Partial(
    functools.partial(method.embed, modality='infrared'), state.variables
  )
  features = embed_all(
    embed, images, 8, sharding.batch_sharding(mesh), np.arange(3, 16), False
  )
  leaves = jax.tree.leaves(jax.device_get(state.variables))
  return {
    'losses': np.array(losses),
    'variables': np.concatenate([np.ravel(leaf) for leaf in leaves]),
    # The largest entry of the array that each variable belongs to.
    'scales': np.concatenate(
      [np.full(x.size, np.abs(x).max()) for x in leaves]
    ),
    'embeddings': features,
  }


def main(out, coordinator, count, index):
  if int(count):
    processes.initialize(coordinator, int(count), int(index))
  narrow = run(jnp.float32, 1)
  with jax.enable_x64(True):
    wide = run(jnp.float64, STEPS)
  if processes.is_first():
    np.savez(
      out,
      first_loss=narrow['losses'],
      devices=len(jax.devices()),
      **wide,
    )


if __name__ == '__main__':
  main(*sys.argv[1:])
