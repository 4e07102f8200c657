"""The reference's numbers, computed by the functions that training calls; and a checker that can fail."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from denoised_mdp.agent import Agent
from denoised_mdp.commands import check_parity
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.reference import parity, weights

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("name", ["xy_64", "xy_mixed_64", "dreamer_64", "xyz_64"])
def test_the_reference_s_numbers_are_ours(name):
    report = parity.check(GOLDEN / f"{name}.npz")
    assert report.agrees, parity.table(report, every_array=False)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        outputs = {key for key in golden if "/out/" in key or "/grad/" in key}
    assert {check.name for check in report.checks} == outputs


@pytest.fixture(scope="module")
def dreamer() -> dict[str, np.ndarray]:
    return weights.read_arrays(GOLDEN / "dreamer_64.npz")


def written(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(folder / "changed.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder / "changed.npz"


def test_each_wrong_or_missing_number_is_told(dreamer, tmp_path):
    changed, bias = dict(dreamer), "reset/grad/encoder_model.net.module.0.bias"
    changed["plain/out/x/belief"] = dreamer["plain/out/x/belief"] * (1 + 3e-5)
    changed[bias] = dreamer[bias] * 1.001
    changed["plain/out/kl_x_loss"] = np.zeros(())  # so compared absolutely
    changed["imagine/out/value"] = dreamer["imagine/out/value"] * np.nan
    changed["plain/out/reward_mean"] = dreamer["plain/out/reward_mean"][:2]
    changed["plain/out/x/something"] = np.zeros(3)
    del changed["behaviour/out/action"], changed["reset/out/embedding"]  # an embedding need not be given
    report = parity.check(written(tmp_path, changed))
    assert {check.name: check.error for check in report.checks if not check.agrees} == {
        "plain/out/x/belief": pytest.approx(3e-5, rel=0.1),
        bias: pytest.approx(1e-3, rel=0.1),
        "plain/out/kl_x_loss": pytest.approx(dreamer["plain/out/kl_x_loss"].item(), rel=1e-3),
        "imagine/out/value": pytest.approx(np.nan, nan_ok=True),
        "plain/out/reward_mean": np.inf,
    }
    assert (report.missing, report.unchecked) == (["behaviour/out/action"], ["plain/out/x/something"])
    assert not report.agrees
    lines = parity.table(report, every_array=False).splitlines()
    assert any("x belief" in line and "DIFFERS" in line and "plain/out/x/belief" in line for line in lines)
    assert any("behaviour/out/action" in line and "MISSING" in line for line in lines)
    assert lines[-1].endswith("7 failures")


@pytest.mark.parametrize("name", ["encoder_model.net.module.9.weight", "actor_model.net.module.8.bias"])
def test_a_wrong_weight_is_seen(dreamer, tmp_path, name):
    weight = dreamer[f"weight/{name}"].copy()
    weight.flat[0] += 0.01
    report = parity.check(written(tmp_path, dreamer | {f"weight/{name}": weight}))
    assert any(not check.agrees for check in report.checks)


def test_the_relative_error_is_that_of_the_golden_files():
    theirs = np.array([1.0, -4.0, 0.0])
    assert parity.relative_error(theirs + np.array([0.0, 0.0, 0.1]), theirs) == (pytest.approx(0.025), False)
    assert parity.relative_error(np.full(2, 5e-7), np.zeros(2)) == (pytest.approx(5e-7), True)
    assert parity.relative_error(np.zeros((2, 1)), np.zeros(2)) == (np.inf, False)
    assert parity.relative_error(np.zeros((2, 0)), np.zeros((2, 0))) == (0.0, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plain/in/x/prior_noise": None}, "plain/in/x/prior_noise is missing"),
        ({"in/action": np.zeros((4, 2, 1))}, r"in/action is \(4, 2, 1\), not \(4, 2, 3\)"),
        ({"weight/actor_model.net.module.2.bias": None}, "actor_model.net.module.2.bias is missing"),
        ({"weight/extra": np.zeros(1)}, "extra does not belong to this model"),
        (
            {"weight/value_model.net.module.0.bias": np.zeros(5)},
            r"value_model.net.module.0.bias is \(5,\), not \(12,\)",
        ),
        ({"config": None}, "config is missing"),
        ({"config": np.array("{}")}, "config: action_size is missing"),
    ],
)
def test_what_cannot_be_computed_from_is_one_clear_line(dreamer, tmp_path, change, message):
    changed = {name: array for name, array in (dreamer | change).items() if array is not None}
    with pytest.raises(UserError, match=message) as caught:
        parity.check(written(tmp_path, changed))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_file_that_is_none_is_one_clear_line(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for path in (tmp_path / "text.npz", tmp_path / "array.npy", tmp_path / "nowhere.npz"):
        with pytest.raises(UserError, match="cannot be read"):
            parity.check(path)


def test_a_file_of_other_sizes_is_consistent_with_itself(tmp_path):
    """Not parity: what is compared is ours on both sides. It shows that names, layouts and shapes of any size fit."""
    arrays = own_file(
        image_size=96,
        action_size=1,
        dense_hidden_size=7,
        min_stddev=0.2,
        x={"belief_size": 3, "state_size": 5},
        y={"belief_size": 0, "state_size": 0},
        z={"belief_size": 6, "state_size": 2},
        kl={"beta_free_nats_x": None, "beta_x": 0.9, "beta_y": 0.0, "free_nats_z": 0.3},
    )
    report = parity.check(written(tmp_path, arrays))
    assert report.agrees, parity.table(report, every_array=False)
    named_after = {key.split("/", 2)[2] for key in arrays if "/grad/" in key}
    assert named_after == {key.removeprefix("weight/") for key in arrays if key.startswith("weight/")}


def own_file(**changes: Any) -> dict[str, np.ndarray]:
    """A file of the golden form from our own functions, of 2 sequences of 3 steps and a horizon of 3."""
    config = json.loads(str(weights.read_arrays(GOLDEN / "xyz_64.npz")["config"]))
    config |= changes | {"kl": config["kl"] | changes.get("kl", {}), "filter_base": 1, "horizon": 3}
    width, actions = [config["dense_hidden_size"]], config["action_size"]
    parts = {name: (config[name]["belief_size"], config[name]["state_size"]) for name in "xyz"}
    made = compose(
        [
            "size=paper",
            "model=xyz",
            *(f"model.{name}.belief={belief}" for name, (belief, _) in parts.items()),
            *(f"model.{name}.state={state}" for name, (_, state) in parts.items()),
            f"env.image_size={config['image_size']}",
            f"model.embedding={config['embedding_size']}",
            f"model.decoder_hidden={config['decoder_hidden_size']}",
            f"model.conv_features={config['filter_base']}",
            f"model.z_prior_uses_y={config['z_prior_uses_y']}",
            f"model.reward_widths={2 * width}",
            f"policy.actor_widths={4 * width}",
            f"policy.critic_widths={3 * width}",
        ]
    )
    state = Agent(made, actions).create(jax.random.key(1))
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    arrays = {f"weight/{key}": value for key, value in weights.to_theirs(state).items()}
    arrays["config"] = np.array(json.dumps(config))
    side, (belief, sx) = config["image_size"], parts["x"]
    arrays["in/observation_uint8"] = rng.integers(0, 256, (3, 2, 3, side, side), dtype=np.uint8)
    arrays["in/next_observation_nonfirststep"] = np.array([[1, 1], [1, 0], [0, 1]], np.float32)
    arrays |= {"in/action": noise(3, 2, actions), "in/reward": noise(3, 2)}
    for section in ("plain", "reset"):
        for name, (_, width_of_state) in parts.items():
            for kind in ("prior", "posterior"):
                if width_of_state:
                    arrays[f"{section}/in/{name}/{kind}_noise"] = noise(3, 2, width_of_state)
    arrays |= {"imagine/in/x_belief": np.tanh(noise(6, belief)), "imagine/in/x_state": noise(6, sx)}
    arrays |= {"imagine/in/action": np.tanh(noise(3, 6, actions)), "imagine/in/x_prior_noise": noise(3, 6, sx)}
    arrays |= {"behaviour/in/action_noise": noise(3, 6, actions), "behaviour/in/x_prior_noise": noise(3, 6, sx)}
    return arrays | dict(parity.computed(parity.Inputs(arrays)))


def test_the_script_tells_and_fails(dreamer, tmp_path, monkeypatch, capsys):
    def exit_code(*arguments: object) -> object:
        monkeypatch.setattr(sys, "argv", ["check_parity.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            check_parity.command()
        return caught.value.code

    assert exit_code(GOLDEN / "dreamer_64.npz") == 0
    assert "149 arrays compared, no failures" in capsys.readouterr().out
    wrong = written(tmp_path, dreamer | {"plain/out/kl_x_loss": dreamer["plain/out/kl_x_loss"] * 1.001})
    assert exit_code(wrong, "--verbose") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("DIFFERS")] == ["plain/out/kl_x_loss"]
    assert exit_code(wrong, "nowhere.npz") == 2
    told = capsys.readouterr()
    assert "kl_x_loss" in told.out and "NOT every file agrees" in told.out
    assert told.err.startswith("error: nowhere.npz: cannot be read") and told.err.count("\n") == 1
