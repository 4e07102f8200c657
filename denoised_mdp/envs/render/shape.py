"""Intersections of rays with the simple shapes with which mujoco draws sites and tendons."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names live in a C extension without stubs.

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

_GEOM = mujoco.mjtGeom
_MIN_PIXELS = 0.5  # least radius of a thin shape, else it would fall between the rays


def meet(
    shape: int, size: NDArray, position: NDArray, rotation: NDArray, origin: NDArray, rays: NDArray, pixel: float
) -> tuple[NDArray, NDArray, NDArray]:
    """Intersects the unit `rays` [N, 3] from `origin` [3] with a shape.

    Args:
        shape: an mjtGeom among SHAPES.
        size: [3], half extents along its axes; the caps of a capsule extend beyond the last one.
        position: [3], its centre.
        rotation: [3, 3], its axes as columns.
        origin: [3]
        rays: [N, 3]
        pixel: width of a pixel at distance 1.

    Returns: indices of the rays that meet it [M], distances [M], outward normals [M, 3].
    """
    centre = position - origin
    far = float(np.linalg.norm(centre))
    size = np.maximum(size, _MIN_PIXELS * pixel * far)
    radius = float(np.linalg.norm(size)) + (float(size[0]) if shape == _GEOM.mjGEOM_CAPSULE else 0.0)
    # Only the rays that meet the sphere around the shape; all rays if the origin is inside that sphere.
    near = np.flatnonzero((rays @ centre >= np.sqrt(max(far**2 - radius**2, 0))) | (far <= radius))
    distance, normal = _MEET[shape](size, -centre @ rotation, rays[near] @ rotation)
    met = np.isfinite(distance)
    return near[met], distance[met], normal[met] @ rotation.T


def _ellipsoid(size: NDArray, start: NDArray, direction: NDArray) -> tuple[NDArray, NDArray]:
    a, b = start / size, direction / size
    distance = _quadratic((b * b).sum(-1), b @ a, float(a @ a) - 1)
    with np.errstate(invalid="ignore"):  # rays that miss
        normal = (start + distance[:, None] * direction) / size**2
        return distance, normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def _cylinder(size: NDArray, start: NDArray, direction: NDArray) -> tuple[NDArray, NDArray]:
    radius, half = size[0], size[2]
    distance, normal = _tube(radius, half, start, direction)
    for side in (-1.0, 1.0):
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (side * half - start[2]) / direction[:, 2]
            point = start[:2] + t[:, None] * direction[:, :2]
            nearer = (t > 0) & (t < distance) & ((point**2).sum(-1) <= radius**2)
        distance[nearer], normal[nearer] = t[nearer], (0, 0, side)
    return distance, normal


def _capsule(size: NDArray, start: NDArray, direction: NDArray) -> tuple[NDArray, NDArray]:
    radius, half = size[0], size[2]
    distance, normal = _tube(radius, half, start, direction)
    for side in (-1.0, 1.0):
        cap = start - (0, 0, side * half)
        t, outward = _ellipsoid(np.full(3, radius), cap, direction)
        nearer = t < distance
        distance[nearer], normal[nearer] = t[nearer], outward[nearer]
    return distance, normal


def _box(size: NDArray, start: NDArray, direction: NDArray) -> tuple[NDArray, NDArray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = np.stack([(-size - start) / direction, (size - start) / direction])
    enter, leave = sides.min(0), sides.max(0)
    axis = enter.argmax(-1)
    distance = enter.max(-1)
    distance = np.where((distance <= leave.min(-1)) & (distance > 0), distance, np.inf)
    normal = -np.sign(direction) * (np.arange(3) == axis[:, None])
    return distance, normal


def _tube(radius: float, half: float, start: NDArray, direction: NDArray) -> tuple[NDArray, NDArray]:
    """Intersects rays with the open side of a cylinder along the third axis."""
    flat = direction[:, :2]
    distance = _quadratic((flat * flat).sum(-1), flat @ start[:2], float(start[:2] @ start[:2]) - radius**2)
    with np.errstate(invalid="ignore"):
        point = start + distance[:, None] * direction
        distance = np.where(np.abs(point[:, 2]) <= half, distance, np.inf)
        return distance, point / radius * (1, 1, 0)


def _quadratic(a: NDArray, b: NDArray, c: float) -> NDArray:
    """Returns the smaller root of a t^2 + 2 b t + c where it is positive, else infinity."""
    inside = b**2 - a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        root = (-b - np.sqrt(inside)) / a
    return np.where((inside >= 0) & (root > 0), root, np.inf)


_MEET = {
    int(_GEOM.mjGEOM_SPHERE): _ellipsoid,
    int(_GEOM.mjGEOM_ELLIPSOID): _ellipsoid,
    int(_GEOM.mjGEOM_CAPSULE): _capsule,
    int(_GEOM.mjGEOM_CYLINDER): _cylinder,
    int(_GEOM.mjGEOM_BOX): _box,
}
SHAPES = tuple(_MEET)
