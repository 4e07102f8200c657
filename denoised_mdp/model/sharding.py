"""The placement of arrays when a program is divided among devices: the axis of the mesh, also for merged axes.

A model marks its own arrays and does not depend on the devices; outside such a mesh the mark changes nothing.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

AXIS = "batch"  # of the mesh: it divides the B sequences of a batch, or the seeds that learn together


def spread(array: jax.Array) -> jax.Array:
    """Divides [N, ...] along N where a batch is divided; elsewhere returns it unchanged.

    This is for a merged N = T B: XLA cannot infer its division from that of B, and each device would compute all of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if AXIS not in mesh.axis_names or array.shape[0] % mesh.shape[AXIS]:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(AXIS))
