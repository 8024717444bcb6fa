"""Collectives of hand-made and of compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from jaxreid import collectives, sharding

# As XLA prints them, cut to what matters; the layouts are a TPU's.
LINES = {
  'tuple': (
    '  %all-reduce.7 = (f32[7,7,3,32]{3,1,2,0:T(8,128)S(1)}, /*index=5*/'
    'f32[32]{0:T(128)S(1)}) all-reduce(%a, %b), channel_id=97, replica_groups='
    "mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0','axis_1'}, to_apply=%add,"
    ' metadata={op_name="jit(step)/conv" stack_frame_id=5}',
    ('all-reduce', ((7, 7, 3, 32), (32,)), 4 * (4704 + 32), 4),
  ),
  'listed': (
    '  all-gather.1 = bf16[16,8]{1,0} all-gather(x), channel_id=1, '
    'replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}',
    ('all-gather', ((16, 8),), 2 * 128, 4),
  ),
  'iota': (
    '  %r = s32[3]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8], '
    'to_apply=%add',
    ('reduce-scatter', ((3,),), 12, 4),
  ),
  'started gather': (
    '  %g = (f32[2,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), '
    'replica_groups=[1,8]<=[8], dimensions={0}',
    ('all-gather', ((16, 8),), 512, 8),
  ),
  'started reduce': (
    '  %s = (f32[5]{0}, pred[3]{0}) all-reduce-start(%x, %y), '
    'replica_groups={}, to_apply=%add',
    ('all-reduce', ((5,), (3,)), 23, 8),
  ),
  'started permute': (
    '  %p = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%x), '
    'source_target_pairs={{0,1},{1,0}}',
    ('collective-permute', ((6,),), 24, 8),
  ),
  'scalar': (
    '  ROOT %a = f64[] all-to-all(%x), replica_groups={{0,1}}',
    ('all-to-all', ((),), 8, 2),
  ),
}


@pytest.mark.parametrize('name', LINES)
def test_a_line_is_read(name):
  line, expected = LINES[name]
  (found,) = collectives.read(line, devices=8)
  assert found[:4] == expected


def test_where_the_program_asks_for_it():
  assert collectives.read(LINES['tuple'][0])[0].op_name == 'jit(step)/conv'
  assert collectives.read(LINES['iota'][0])[0].op_name == ''


def test_users_and_ends_of_collectives_are_none():
  program = """
  %done = f32[5]{0} all-reduce-done(%all-reduce-start)
  %gte = f32[5]{0} get-tuple-element(%all-reduce.7), index=0
  %fusion = f32[8]{0} fusion(%all-gather.1), calls=%all-reduce.1.clone
  %all-reduce.8 = f32[8]{0} add(%all-gather.1, %all-gather.1)
  """
  assert collectives.read(program) == []


def test_parts_of_one_collective_are_counted_once():
  line = LINES['listed'][0]
  one = line + ', frontend_attributes={chain_id="3"}'
  other = line + ', frontend_attributes={chain_id="4"}'
  found = collectives.read('\n'.join([one, one, other, line, line]))
  assert len(found) == 4


@pytest.mark.parametrize(
  ('kind', 'expected'),
  [
    ('all-reduce', 2 * 3 / 4 * 100),
    ('all-gather', 3 / 4 * 100),
    ('reduce-scatter', 300),
    ('all-to-all', 75),
    ('collective-permute', 100),
  ],
)
def test_bytes_sent(kind, expected):
  found = collectives.Collective(kind, ((25,),), 100, 4, '')
  assert found.sent == expected
  assert found._replace(group=1).sent == 0


def test_a_compiled_program():
  mesh = sharding.make_mesh()
  rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

  def spread(x):
    return x.sum(0), jax.lax.with_sharding_constraint(jnp.sin(x), whole)

  x = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=rows)
  program = jax.jit(spread, out_shardings=whole).lower(x).compile().as_text()
  found = {c.kind: c for c in collectives.read(program, mesh.size)}
  assert set(found) == {'all-reduce', 'all-gather'}
  assert found['all-reduce'].shapes == ((5,),)
  assert found['all-gather'].shapes == ((16, 5),)
  assert found['all-gather'].size == 320
  assert {c.group for c in found.values()} == {8}
