"""Where arrays lie when a program is divided among devices: the axis of the mesh, and how a merged one keeps it.

A model says so of its own arrays and knows nothing of which devices there are; outside such a mesh it changes nothing.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

AXIS = "batch"  # of the mesh: along it the B sequences of a batch are divided, or the seeds that learn together


def spread(array: jax.Array) -> jax.Array:
    """[N, ...] divided along N where a batch is divided, and else as it is.

    For N = T B merged: XLA cannot tell that it is divided where B is, and each device would compute all of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if AXIS not in mesh.axis_names or array.shape[0] % mesh.shape[AXIS]:
        return array
    return jax.lax.with_sharding_constraint(array, PartitionSpec(AXIS))
