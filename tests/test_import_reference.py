"""Weights of the reference become a run of ours, and what does not fit is named."""

import importlib
import json
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import jax
import numpy as np
import pytest

from denoised_mdp import cli
from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.commands import import_reference
from denoised_mdp.config.compose import compose
from denoised_mdp.config.schema import DynamicsPolicy
from denoised_mdp.errors import UserError
from denoised_mdp.reference import weights
from denoised_mdp.runs import checkpoint, evaluation, run_dir
from denoised_mdp.training import loop

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "xyz_64.npz"
TINY = ["size=paper", "model.conv_features=1", "model.embedding=6", "model.decoder_hidden=5", "model.reward_widths=[4]"]
TINY += ["policy.actor_widths=[4,3]", "policy.critic_widths=[3]", "model=xyz", "model.x={belief:4,state:3}"]
TINY += ["model.y={belief:3,state:2}", "model.z={belief:2,state:1}", "model.z_prior_uses_y=false"]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return weights.weights_of(weights.read_arrays(GOLDEN))


@pytest.fixture(scope="module")
def tiny() -> tuple[TrainState, dict[str, np.ndarray]]:
    """An agent of one action, and its weights as the reference would have them."""
    state = Agent(compose(TINY), 1).create(jax.random.key(1))
    return state, weights.to_theirs(state)


def test_layouts_are_undone_exactly(tiny):
    state, theirs = tiny
    back = weights.to_ours(theirs, jax.tree.map(np.zeros_like, state))
    jax.tree.map(np.testing.assert_array_equal, back, state)


def test_sizes_follow_from_the_arrays(golden, tiny):
    actions, settings = weights.sizes(golden)
    assert (actions, settings["model"], settings["env.image_size"]) == (3, "xyz", 64)
    assert [settings[f"model.{part}.{width}"] for part in "xyz" for width in ("belief", "state")] == [6, 4, 5, 3, 4, 2]
    assert (settings["model.embedding"], settings["model.decoder_hidden"]) == (16, 24)
    assert (settings["model.conv_features"], settings["model.z_prior_uses_y"]) == (2, True)
    assert (settings["policy.actor_widths"], settings["policy.critic_widths"]) == ([12] * 4, [12] * 3)
    actions, settings = weights.sizes(tiny[1])
    assert (actions, settings["model.reward_widths"], settings["policy.actor_widths"]) == (1, [4], [4, 3])
    assert settings["model.z_prior_uses_y"] is False


def test_a_policy_learned_by_sac_comes_with_critics_targets_and_temperature():
    config = compose([*TINY, "policy=sac", "policy.initial_temperature=0.3"])
    state = Agent(config, 2).create(jax.random.key(1))
    theirs = weights.to_theirs(state)
    assert theirs["log_ent_coef"].shape == () and theirs["log_ent_coef"] == pytest.approx(np.log(0.3))
    assert theirs["q_model_1_target.net.module.0.weight"].shape == (3, 4 + 3 + 2)
    actions, settings = weights.sizes(theirs)
    assert (actions, settings["policy"], settings["policy.critic_widths"]) == (2, "sac", [3])
    assert compose(["size=paper", *weights.overrides(settings)]).policy.name == "sac"
    back = weights.to_ours(theirs, jax.tree.map(np.zeros_like, state))
    jax.tree.map(np.testing.assert_array_equal, back.policy[:4], state.policy[:4])  # Adam's moments stay behind


def test_a_config_says_the_rest(golden):
    source = weights.read(GOLDEN)
    made = compose(["size=paper", *weights.overrides(source.settings), "run_dir=anywhere"])
    objective = Agent(made, source.actions).model_learner.objective
    assert (objective.alpha, objective.beta, objective.beta_free_nats_x) == (1.0, (1.0, 0.125, 0.125), 0.5)
    assert objective.free_nats == (0.5, 0.0, 0.0)
    assert isinstance(made.policy, DynamicsPolicy)
    assert (made.policy.horizon, made.policy.discount, made.model.min_stddev) == (4, 0.99, 0.1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward_stddev", 0.5, "reward_stddev is 0.5, but these weights and this code have 1.0"),
        ("dense_activation", "relu", "dense_activation is relu"),
        ("filter_base", 32, "filter_base is 32, but these weights and this code have 2"),
        ("x", {"belief_size": 5, "state_size": 4}, "x.belief_size is 5"),
        ("z_prior_uses_y", False, "z_prior_uses_y is False"),
        ("kl", {}, "kl.alpha is missing"),
    ],
)
def test_a_config_that_says_otherwise_is_told(golden, name, value, message):
    config = json.loads(str(weights.read_arrays(GOLDEN)["config"])) | {name: value}
    with pytest.raises(UserError, match=message):
        weights.described(config, golden)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("transition_model.z_rnn.weight_hh", None, "z_rnn.weight_hh is missing"),
        ("reward_model.y_network.net.module.4.weight", None, "y_network.net.module.4.weight is missing"),
        ("value_model.net.module.6.weight", None, "value_model.net.module.6.weight is missing"),
        ("encoder_model.net.module.4.bias", None, "encoder_model.net.module.4.bias is missing"),
        ("encoder_model.net.module.4.bias", (9,), r"encoder_model.net.module.4.bias is \(9,\), not \(8,\)"),
        ("observation_model.fc1.weight", (24,), r"observation_model.fc1.weight is \(24,\), but should have 2 axes"),
        ("encoder_model.net.module.13.weight", (2, 2), "should be number 9 for 64 pixels or 11 for 96 pixels, not 13"),
        ("transition_model.w_rnn.bias_hh", (3,), "transition_model.w_rnn.bias_hh does not belong to this model"),
    ],
)
def test_what_does_not_fit_is_named(golden, name, shape, message):
    wrong = {key: value for key, value in golden.items() if key != name}
    if shape is not None:
        wrong[name] = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match=message):
        actions, settings = weights.sizes(wrong)
        made = compose(["size=paper", *weights.overrides(settings)])
        weights.to_ours(wrong, Agent(made, actions).create(jax.random.key(0)))


WORLD = ["env.task=cartpole_balance", "render.backend=ray", "render.quality=fast"]
WORLD += ["env.action_repeat=100", "train.batch_length=8"]  # episodes of ten steps


@pytest.fixture(scope="module")
def imported(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    np.savez(folder / "tiny.npz", **{f"weight/{name}": array for name, array in tiny[1].items()})
    settings = [*WORLD, "model.alpha=2", "policy.horizon=3", f"run_dir={folder / 'run'}"]
    import_reference.import_weights(folder / "tiny.npz", settings)
    return folder / "run"


def test_an_imported_run_is_evaluated_and_looked_at(imported, tiny, capsys):
    for name in ("evaluate", "visualize"):
        module = importlib.import_module(f"denoised_mdp.commands.{name}")
        module.main(*cli.parse_run_options(module.Options, [f"run_dir={imported}", "episodes=1"]))
        assert "return" in capsys.readouterr().out
    assert len(list((imported / "visualize").iterdir())) == 2
    config = run_dir.load(imported)
    assert isinstance(config.policy, DynamicsPolicy)
    assert (config.model.alpha, config.policy.horizon) == (2, 3)
    _, state = evaluation.load_agent(config, 1, run_dir.checkpoint(imported, "latest"))
    jax.tree.map(np.testing.assert_array_equal, state, tiny[0])


def test_an_imported_run_cannot_be_trained(imported):
    with pytest.raises(UserError, match="no replay to go on with"):
        loop.train(run_dir.load(imported))


def test_actions_that_do_not_fit_the_task_are_noted(tmp_path, capsys):
    settings = [*WORLD, f"run_dir={tmp_path / 'run'}"]
    import_reference.import_weights(GOLDEN, settings)
    told = capsys.readouterr()
    assert "x 6+4, y 5+3, z 4+2; 64 pixels, 3 actions" in told.out
    assert "env.task=cartpole_balance takes 1 actions, but these weights have 3" in told.err
    assert checkpoint.latest(tmp_path / "run") is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["env.task=walker_walk"], "run_dir=... is missing"),
        (["run_dir=RUN", "model.x.belief=6"], "model.x.belief cannot be set: in this file it is 6"),
        (["run_dir=RUN", "model.alpha=2"], "model.alpha cannot be set: in this file it is 1.0"),
        (["run_dir=RUN", "model=xy"], "model cannot be set: in this file it is xyz"),
        (["run_dir=RUN", "evn.task=walker_walk"], "there is no such setting; did you mean env.task"),
        (["run_dir=RUN", "env.task=walker_wlak"], "did you mean walker_walk"),
    ],
)
def test_wrong_settings_are_one_clear_line_and_write_nothing(tmp_path, settings, message):
    settings = [text.replace("RUN", str(tmp_path / "run")) for text in settings]
    with pytest.raises(UserError, match=message) as caught:
        import_reference.import_weights(GOLDEN, settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_without_pytorch_its_files_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "checkpoint_1000.pth").touch()
    with pytest.raises(UserError, match=r"needs PyTorch: pip install -e '.\[reference\]'"):
        weights.read(tmp_path / "checkpoint_1000.pth")
    with pytest.raises(UserError, match=r"neither an \.npz nor a \.pth"):
        weights.read(tmp_path / "checkpoint_1000.zip")
    with pytest.raises(UserError, match="there is no such file"):
        weights.read(tmp_path / "checkpoint_2000.pth")


def test_a_checkpoint_of_the_reference_is_read(golden, tmp_path):
    """As its main.py writes them: metrics and random states beside the state_dicts."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.as_tensor(array) for name, array in golden.items()}
    value = {name: tensors.pop(name) for name in golden if name.startswith("value_model.")}
    world_model = OrderedDict(tensors)
    world_model._metadata = OrderedDict({"": {"version": 1}})  # pyright: ignore[reportAttributeAccessIssue]
    rng = np.random.RandomState(0)
    saved = {
        "train_info": {"last_train": {"num_env_steps": -np.inf, "current_episode_reward": np.float64(1.5)}},
        "num_env_steps": 2000,
        "train_metrics": defaultdict(list, {"model/loss": [np.zeros(2, np.float32)]}),
        "test_metrics": {"test_rewards": [np.zeros(10, np.float32)]},
        "data_collect_env_random_state": (np.random.PCG64(0).state, None, rng.get_state()),
        "world_model": world_model,
        "model_learning": {"module": {}, "optimizers": {}},
        "policy_learning": {
            "module": value | {"plan_horizon_discount": 0.99 ** torch.arange(14.0)[:, None]},
            "optimizers": {},
        },
    }
    path = tmp_path / "checkpoint_0002000.pth"
    torch.save(saved, path)
    source = weights.read(path)
    assert (source.env_step, source.actions) == (2000, 3)
    assert (source.settings["policy.horizon"], source.settings["policy.discount"]) == (15, 0.99)
    assert source.weights.keys() == golden.keys()
    for name, array in golden.items():
        np.testing.assert_array_equal(source.weights[name], array)

    torch.save(saved["world_model"], path)
    with pytest.raises(UserError, match="is not a checkpoint of the reference"):
        weights.read(path)
    path.write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        weights.read(path)
