"""The paper's variants and runs as configuration alone: Table 6, and parts of the latent that come and go with YAML."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from test_agent import A, make_batches, make_state

from denoised_mdp.agent import Agent
from denoised_mdp.config import compose
from denoised_mdp.config.schema import Config, DenoisedModel, Part

PRESETS = compose.CONFIGS / "experiment" / "paper"
NONE, VIDEO, SENSOR, JITTER = NOISES = (
    "none",
    "video_background",
    "video_background_noisy_sensor",
    "video_background_camera_jitter",
)
TABLE_6 = {  # beta of each learner and task, for each of NOISES; alpha is 1
    ("dynamics", "cheetah_run"): (1, 0.125, 0.25, 0.25),
    ("dynamics", "walker_walk"): (1, 0.25, 0.25, 0.5),
    ("dynamics", "reacher_easy"): (1, 0.25, 0.25, 0.25),
    ("sac", "cheetah_run"): (1, 0.125, 0.125, 0.25),
    ("sac", "walker_walk"): (1, 0.25, 0.125, 0.5),
    ("sac", "reacher_easy"): (1, 0.125, 0.25, 0.25),
}


def name_of(learner: str, task: str, noise: str) -> str:
    variant = {NONE: "noiseless", "robodesk_all": "noisy"}.get(noise, noise)
    return f"{task}_{variant}" + ("_sac" if learner == "sac" else "")


RUNS = {  # name: policy, env, task, noise, alpha, beta
    name_of(learner, task, noise): (learner, "dmc", task, noise, 1, beta)
    for (learner, task), betas in TABLE_6.items()
    for noise, beta in zip(NOISES, betas, strict=True)
} | {  # Sec. B.4; with SAC our choice
    name_of(learner, "robodesk_tv_green_hue", "robodesk_all"): (
        learner,
        "robodesk",
        "tv_green_hue",
        "robodesk_all",
        2,
        0.125,
    )
    for learner in ("dynamics", "sac")
}


def choices(name: str) -> dict[str, str]:
    """What a preset chooses of each group, itself or in the preset that it builds on: {"noise": "none", ...}."""
    chosen = {"env": "dmc", "policy": "dynamics"}  # config.yaml's
    for entry in yaml.safe_load((PRESETS / f"{name}.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            chosen |= {key.removeprefix("override /"): value for key, value in entry.items()}
        elif entry != "_self_":
            chosen |= choices(Path(entry).name)
    return chosen


def compose_paper(name: str, *overrides: str) -> Config:
    """A preset, once every group that it chooses is there; else the test is skipped, which pytest counts."""
    for group, choice in choices(name).items():
        if not (compose.CONFIGS / group / f"{choice}.yaml").exists():
            pytest.skip(f"no configs/{group}/{choice}.yaml yet")
    return compose.compose([f"experiment=paper/{name}", *overrides])


# Table 6


def test_there_is_a_preset_for_every_run_of_table_6_and_no_other():
    assert {path.stem for path in PRESETS.glob("*.yaml")} == RUNS.keys()
    assert len(RUNS) == 2 * 13


@pytest.mark.parametrize("name", RUNS)
def test_a_preset_chooses_its_world_and_learner(name):
    """Checked in the files themselves, so also for groups that are not there yet."""
    learner, env, task, noise, _, _ = RUNS[name]
    policy = "sac_walker" if (learner, task) == ("sac", "walker_walk") else learner
    assert choices(name) == {"env": env, "noise": noise, "policy": policy, "size": "paper"}


@pytest.mark.parametrize("name", RUNS)
def test_a_preset_is_the_papers_run(name):
    learner, env, task, _, alpha, beta = RUNS[name]
    made = compose_paper(name)
    model, train = made.model, made.train
    assert isinstance(model, DenoisedModel)
    assert (made.policy.name, made.env.name, made.env.task, made.size.name) == (learner, env, task, "paper")
    assert (model.alpha, model.beta_x, model.beta_y, model.beta_z) == (alpha, 1, beta, beta)
    assert (model.free_nats_x, model.free_nats_y, model.beta_free_nats_x, model.reward_weight) == (3, 0, None, 1)
    assert model.x == model.y == Part(belief=120, state=20) and model.z == Part(belief=0, state=0)
    assert (made.env.image_size, made.env.action_repeat) == (96 if env == "robodesk" else 64, 2)
    assert (train.env_steps, train.prefill, train.every, train.updates) == (1_000_000, 5000, 1000, 100)
    assert (made.evaluate.every, made.evaluate.episodes, made.replay.include_running) == (10_000, 10, False)
    rate, clip_norm = {"dynamics": (8e-5, 100), "sac": (3e-4, None), "sac_walker": (1e-4, 100)}[choices(name)["policy"]]
    assert made.policy.actor_learning_rate == made.policy.critic_learning_rate == rate
    assert made.policy.clip_norm == clip_norm
    without_effect = {"entropy": 0, "start_every": 1} if learner == "dynamics" else {}
    assert without_effect.items() <= made.policy.model_dump().items() and not model.continue_head


def test_a_preset_yields_to_the_command_line():
    made = compose_paper("cheetah_run_video_background", "model=x", "model.beta=0.5", "train.env_steps=2e6")
    assert isinstance(made.model, DenoisedModel) and made.model.beta_y == 0.5
    assert made.model.x == Part(belief=220, state=33)
    assert made.train.env_steps == 2_000_000 and made.noise.video_background


# Variants, each one line


def paper(*overrides: str) -> Config:
    return compose.compose(["size=paper", *overrides])


def test_figure_2b_2c_and_dreamer_are_one_word_each():
    """Table 5 and Sec. B.5; Dreamer has the size that the paper gave it to match."""
    widths = {
        "xy": ((120, 20), (120, 20), (0, 0)),
        "xyz": ((120, 20), (70, 10), (70, 10)),
        "x": ((220, 33), (0, 0), (0, 0)),
    }
    for name, parts in widths.items():
        model = paper(f"model={name}").model
        assert tuple((part.belief, part.state) for part in (model.x, model.y, model.z)) == parts
        assert isinstance(model, DenoisedModel) and model.z_prior_uses_y


@pytest.mark.parametrize("beta", [0.25, 0.125])
def test_the_other_way_of_giving_free_nats_is_one_setting(beta):
    """Sec. B.1.2: beta KL_x with free nats, (1 - beta) KL_x without."""
    split = paper(f"model.beta={beta}", "model.beta_free_nats_x=${model.beta}")
    objective = Agent(split, A).model_learner.objective
    assert (objective.beta_free_nats_x, objective.beta.x - objective.beta_free_nats_x) == (beta, 1 - beta)
    plain = Agent(paper(f"model.beta={beta}"), A).model_learner.objective
    assert plain.beta_free_nats_x == plain.beta.x == 1


@pytest.fixture
def without_y(tmp_path, monkeypatch):
    """Writes one file into a copy of configs/model, which takes y from another model, and composes it."""

    def make(model: str) -> Agent:
        configs = shutil.copytree(compose.CONFIGS, tmp_path / "configs")
        text = f"defaults: [{model}, _self_]\nname: without_y\ny: {{belief: 0, state: 0}}\n"
        (configs / "model" / "without_y.yaml").write_text(text)
        monkeypatch.setattr(compose, "CONFIGS", configs)
        return Agent(compose.compose(["size=debug", "model=without_y"]), A)

    return make


def test_y_can_be_deleted_from_figure_2b_by_touching_only_yaml(without_y):
    """What is left is the agent of model=x, array by array; both have the same width at size=debug."""

    def arrays(agent: Agent) -> list[tuple[str, jax.ShapeDtypeStruct]]:
        state = agent.shapes()
        return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]

    agent, x_alone = without_y("xy"), Agent(compose.compose(["size=debug", "model=x"]), A)
    assert arrays(agent) == arrays(x_alone)
    assert agent.initial(2).latent.y.features.shape == (2, 0)


def test_y_can_be_deleted_from_figure_2c_by_touching_only_yaml(without_y):
    """x and z are left: a structure that the paper does not have, but that learns."""
    agent = without_y("xyz")
    batch = jax.tree.map(lambda v: v[0], make_batches(1))
    state, metrics = jax.jit(agent.train_step)(make_state(agent), batch, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.world_model.transition.y_prior)) == 0
    assert state.world_model.reward_y is None
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))
    assert metrics["model/kl_y"] == 0 and metrics["model/kl_z"] > 0


# docs/fidelity.md

FIDELITY = (compose.CONFIGS.parent / "docs" / "fidelity.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", FIDELITY)))


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_fidelity_names_tests_that_exist(file):
    path = Path(__file__).parent / file
    if not path.exists():
        pytest.skip(f"no tests/{file} yet")
    there = set(re.findall(r"^def (\w+)", path.read_text(), re.MULTILINE))
    assert {test for name, test in NAMED if name == file} - {""} <= there


def test_the_variants_that_fidelity_tells_are_accepted():
    lines = re.findall(r"^\| .* \| `(model\S*=[^`]*)` \|$", FIDELITY, re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        paper(*shlex.split(line))
