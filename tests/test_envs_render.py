"""Pictures: every task under the ray caster, and the ray caster against OpenGL where there is any."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names live in a C extension without stubs.

import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from denoised_mdp.envs.render import MARKER, SKY, Quality, backend

backend.choose("ray")  # before dm_control is imported, hence the late imports

from denoised_mdp.envs.dmc import TASKS, DeepMindControl  # noqa: E402
from denoised_mdp.envs.render import shape  # noqa: E402
from denoised_mdp.envs.render.ray import RayRenderer  # noqa: E402
from denoised_mdp.envs.render.texture import CubeTexture, PlaneTexture  # noqa: E402


def world(task: str, quality: Quality = "fast") -> DeepMindControl:
    return DeepMindControl(
        *TASKS[task], seed=3, backend="ray", quality=quality, camera=0, image_size=64, background=True
    )


def test_all_51_tasks_of_the_suite_load_step_and_render():
    """Also what finds a mujoco that does not fit its dm_control."""
    assert len(TASKS) == 51
    for task in TASKS:
        env = world(task)
        env.reset()
        spec = env.action_spec()
        env.step((spec.minimum + spec.maximum) / 2)
        rgb, background = env.render()
        assert rgb.shape == (64, 64, 3) and rgb.std() > 5, task
        assert 0.1 < background.mean() < 0.999, task
        env.close()


def test_a_picture_changes_nothing():
    env = world("walker_walk")
    env.reset()
    np.testing.assert_array_equal(env.render().rgb, env.render().rgb)


def test_quality_decides_about_shadows():
    """`fast` has none; under walker's lamp, the others do."""
    pictures = {}
    qualities: tuple[Quality, ...] = ("stock", "fast")
    for quality in qualities:
        env = world("walker_walk", quality=quality)
        env.reset()
        pictures[quality] = env.render().rgb.astype(int)
    assert not (pictures["stock"] == pictures["fast"]).all()


_DUMP = """
import sys
import numpy as np
from denoised_mdp.envs.render import backend
chosen = backend.choose(sys.argv[1])
from denoised_mdp.envs.dmc import TASKS, DeepMindControl
found = {}
for task in sys.argv[3:]:
    domain, name = TASKS[task]
    env = DeepMindControl(
        domain, name, seed=3, backend=chosen, quality="fast", camera=0, image_size=64, background=True
    )
    env.reset()
    for _ in range(10):
        env.step(np.full(env.action_spec().shape, 0.5))
    rgb, background = env.render()
    found |= {task + "/rgb": rgb, task + "/background": background}
    env.close()
np.savez(sys.argv[2], **found)
"""


@pytest.mark.skipif(not backend.works("egl"), reason="no EGL here")
def test_opengl_shows_every_domain_and_what_the_ray_caster_shows(tmp_path: Path):
    """In processes of their own, as dm_control takes up OpenGL once. finger has bodies that mj_multiRay alone culls."""
    compared = ["cheetah_run", "walker_walk", "reacher_easy", "finger_turn_hard"]
    pictures = []
    one_each = {domain: task for task, (domain, _) in TASKS.items()}.values()
    for name, tasks in (("egl", {*compared, *one_each}), ("ray", compared)):
        command = [sys.executable, "-c", _DUMP, name, str(tmp_path / f"{name}.npz"), *tasks]
        subprocess.run(command, check=True, capture_output=True)
        pictures.append(np.load(tmp_path / f"{name}.npz"))
    for task in one_each:
        assert pictures[0][f"{task}/rgb"].std() > 5, task
        assert 0.1 < pictures[0][f"{task}/background"].mean() < 0.999, task
    for task in compared:
        (egl, ray), (egl_mask, ray_mask) = ([p[f"{task}/{part}"] for p in pictures] for part in ("rgb", "background"))
        assert (egl_mask != ray_mask).sum() <= 6, task  # of 4096 pixels
        assert np.abs(egl.astype(int) - ray).mean() < 2.5, task  # of 255


@pytest.mark.parametrize(
    ("task", "background"),
    [
        ("cheetah_run", {"sky"}),
        ("walker_walk", {"sky", "floor"}),
        ("reacher_easy", {"ground"}),
        ("hopper_hop", {"sky", "floor"}),
        ("quadruped_escape", {"floor", "terrain"}),
    ],
)
def test_the_background_is_the_papers(task, background):
    env = world(task)
    env.reset()
    frame = env._renderer.render(geoms=True)
    model = env._physics.model.ptr
    names = {i: model.geom(i).name for i in range(model.ngeom)} | {SKY: "sky", MARKER: "marker"}
    mask = env.render().background
    assert {names[i] for i in np.unique(frame.geoms[mask])} == background
    assert not {names[i] for i in np.unique(frame.geoms[~mask])} & background


def physics_of(xml: str):
    from dm_control.mujoco import Physics

    return Physics.from_xml_string(xml)


def test_every_ray_agrees_with_mujocos_single_ray():
    """mj_multiRay alone would miss parts of turned bodies: its bounding spheres do not turn with them."""
    env = world("finger_spin")
    env.reset()
    for _ in range(10):
        env.step(np.ones(2))
    renderer = env._renderer
    assert isinstance(renderer, RayRenderer)
    seen = renderer.render().geoms.reshape(-1)
    model, data = renderer._model, renderer._data
    groups, geom = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.empty(1, np.int32)
    differ = 0
    for ray, found in zip(renderer._rays, seen, strict=True):
        mujoco.mj_ray(model, data, data.cam_xpos[0], ray, groups, True, -1, geom, None)
        differ += found not in (geom[0], MARKER)
    assert differ <= 2


def test_sites_hide_what_is_behind_them_and_invisible_geoms_do_not():
    physics = physics_of("""
      <mujoco><worldbody>
        <camera pos="0 0 3"/>
        <geom name="wall" type="box" size="9 9 .1" pos="0 0 -1"/>
        <geom name="ghost" type="sphere" size="1" pos="-1 0 0" rgba="1 1 1 0"/>
        <site type="sphere" size=".5" pos=".6 0 0" rgba="1 0 0 1"/>
        <site type="sphere" size=".5" pos=".6 .6 -2" rgba="1 0 0 1"/>
        <site type="sphere" size=".5" pos="0 -.6 0" rgba="1 0 0 1" group="4"/>
      </worldbody></mujoco>""")
    frame = RayRenderer(physics, camera=0, size=32, shadows=False).render()
    assert set(np.unique(frame.geoms)) == {0, MARKER}
    rows, columns = np.nonzero(frame.geoms == MARKER)
    assert abs(rows.mean() - 15.5) < 0.5 and columns.min() >= 15  # only the one in the middle, on the right
    red, green, blue = frame.rgb[frame.geoms == MARKER].T.astype(int)
    assert (red[red > 60] > 2 * green[red > 60]).all() and (green == blue).all()


@pytest.mark.parametrize("kind", ["sphere", "capsule", "ellipsoid", "cylinder", "box"])
def test_shapes_are_met_where_mujoco_meets_them(kind):
    """The sites' shapes against mujoco's own ray casting of geoms."""
    rng = np.random.default_rng(1)
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><worldbody><geom type="{kind}" size=".3 .5 .4" pos=".1 .2 .3" euler="30 40 50"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    rays = rng.normal(size=(500, 3)) * 0.5 + np.array([0.1, 0.2, -1.7])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    origin = np.array([0, 0, 2.0])
    size = model.geom_size[0]
    extents = {"sphere": size[[0, 0, 0]], "capsule": size[[0, 0, 1]], "cylinder": size[[0, 0, 1]]}.get(kind, size)
    met, distance, normal = shape.meet(
        int(model.geom_type[0]), extents, data.geom_xpos[0], data.geom_xmat[0].reshape(3, 3), origin, rays, 0.0
    )
    geom, expected = np.empty(1, np.int32), np.full((500, 4), np.nan)
    for i, ray in enumerate(rays):
        outward = np.zeros(3)
        at = mujoco.mj_ray(model, data, origin, ray, None, True, -1, geom, outward)
        if geom[0] >= 0:
            expected[i] = at, *outward
    assert 50 < len(met) < 450  # some of both
    np.testing.assert_array_equal(met, np.flatnonzero(np.isfinite(expected[:, 0])))
    np.testing.assert_allclose(np.column_stack([distance, normal]), expected[met], atol=1e-6)


def test_a_texture_is_sampled_at_the_resolution_that_a_pixel_covers():
    checker = np.kron([[0, 1], [1, 0]], np.ones((30, 30)))[..., None].repeat(3, -1).astype(np.uint8) * 200
    texture = PlaneTexture(checker)
    near, far = (
        texture.at(np.array([0.25, 0.75, 1.25]), np.array([0.25, 0.25, 1.75]), np.full(3, f)) for f in (0.01, 3)
    )
    np.testing.assert_allclose(near[:, 0] * 255, [0, 200, 200], atol=1)
    np.testing.assert_allclose(far * 255, 100, atol=1)


def test_a_cube_texture_has_its_faces_where_opengl_has_them():
    faces = np.repeat(np.arange(6, dtype=np.uint8), 16 * 16 * 3).reshape(96, 16, 3)
    right, left, up, down, front, back = range(6)
    directions = {
        right: (1, 0, 0),
        left: (-1, 0, 0),
        up: (0, 0, 1),
        down: (0, 0, -1),
        front: (0, -1, 0),
        back: (0, 1, 0),
    }
    found = CubeTexture(faces).at(np.array([directions[i] for i in range(6)], float))
    np.testing.assert_allclose(found[:, 0] * 255, np.arange(6), atol=1e-3)


def test_auto_is_egl_where_it_works_and_else_says_what_to_install(caplog, monkeypatch):
    monkeypatch.setattr(backend, "_imported", lambda: None)
    monkeypatch.setattr(backend, "works", lambda name: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    backend._automatic.cache_clear()
    backend.announce.cache_clear()
    with caplog.at_level("INFO", logger=backend.__name__):
        for _ in range(2):
            backend.announce(backend.choose("auto"))
    assert backend.choose("auto") == "ray"
    assert len(caplog.records) == 1 and "apt-get install" in caplog.text and "libegl1" in caplog.text
    with pytest.raises(ValueError, match=r"apt-get install .*libosmesa6"):
        backend.choose("osmesa")
    monkeypatch.setattr(backend, "works", lambda name: name == "egl")
    backend._automatic.cache_clear()
    assert backend.choose("auto") == "egl"
    backend._automatic.cache_clear()


def test_one_process_has_one_opengl_backend(monkeypatch):
    monkeypatch.setattr(backend, "_imported", lambda: "egl")
    assert backend.choose("egl") == "egl"
    assert backend.choose("ray") == "ray"
    with pytest.raises(ValueError, match="after egl in one process"):
        backend.choose("osmesa")
