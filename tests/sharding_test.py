"""The mesh and its two layouts on eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import sharding


def test_mesh_spans_all_devices_by_default():
  mesh = sharding.make_mesh()
  assert mesh.axis_names == ('data',)
  assert list(mesh.devices.flat) == jax.devices()
  assert mesh.size == 8


def test_mesh_of_chosen_devices():
  devices = jax.devices()[2:5]
  assert list(sharding.make_mesh(devices).devices.flat) == devices


def test_rows_are_spread_and_copies_are_whole():
  mesh = sharding.make_mesh()
  rows = jax.device_put(jnp.zeros((16, 3)), sharding.batch_sharding(mesh))
  assert {s.data.shape for s in rows.addressable_shards} == {(2, 3)}
  whole = jax.device_put(jnp.zeros((16, 3)), sharding.replicated(mesh))
  assert {s.data.shape for s in whole.addressable_shards} == {(16, 3)}


def test_all_pairs_of_spread_rows_equal_one_device():
  x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)

  def squared(x):
    return jnp.square(x[:, None] - x[None]).sum(-1)

  spread = jax.device_put(x, sharding.batch_sharding(sharding.make_mesh()))
  np.testing.assert_allclose(
    jax.jit(squared)(spread), squared(jnp.asarray(x)), rtol=1e-6
  )


def test_a_batch_that_does_not_divide_is_refused():
  mesh = sharding.make_mesh()
  sharding.check_divisible(32, mesh)
  with pytest.raises(ValueError, match=r'30 images .* over 8 devices'):
    sharding.check_divisible(30, mesh)
