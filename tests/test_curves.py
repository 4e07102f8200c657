"""Learning curves and the baselines beside them."""

import json

import dm_env
import numpy as np
import pytest
from dm_env import specs

from denoised_mdp.analysis import baselines, curves
from denoised_mdp.config import schema
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.runs import run_dir


def make_run(folder, *overrides, returns=(10.0, 20.0), every=5000):
    schema.save(compose([*overrides, f"run_dir={folder}"]), folder / run_dir.CONFIG)
    lines = [{"env_step": i * every, curves.METRIC: value} for i, value in enumerate(returns)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_curves_are_grouped_by_model_and_their_last_points_reported(tmp_path):
    runs = [
        make_run(tmp_path / "a", "model=xy", "seed=0", returns=(1, 2, 3)),
        make_run(tmp_path / "b", "model=xy", "seed=1", returns=(3, 4)),
        make_run(tmp_path / "c", "model=x"),
    ]
    task = compose([]).env.task
    rows = {"task": task, "random_mean": 1.0, "best_constant_mean": 2.0}
    figure, summary = curves.draw(runs, rows)
    assert len(figure.axes[0].get_lines()) == 3 + 2 + 2  # of runs, means and baselines
    assert summary["methods"]["x and y (Denoised MDP, Fig. 2b)"] == {
        "seed 0": {"env_step": 10_000, "return": 3.0},
        "seed 1": {"env_step": 5000, "return": 4.0},
    }
    assert summary["random_mean"] == 1.0


@pytest.mark.parametrize(
    ("second", "every", "baseline", "message"),
    [
        (["seed=0"], 5000, None, "same settings and seed"),
        (["seed=1", "env.task=walker_walk"], 5000, None, "different worlds"),
        (["seed=1", "noise.camera_walk=true"], 5000, None, "camera walk; .*no noise"),
        (["seed=1"], 4000, None, "different env steps"),
        (["seed=1"], 5000, "walker_walk", "baselines are for walker_walk"),
    ],
)
def test_what_cannot_be_compared_is_refused(second, every, baseline, message, tmp_path):
    runs = [make_run(tmp_path / "a", "seed=0"), make_run(tmp_path / "b", *second, every=every)]
    rows = None if baseline is None else {"task": baseline, "random_mean": 1.0, "best_constant_mean": 2.0}
    with pytest.raises(UserError, match=message):
        curves.draw(runs, rows)


def test_runs_that_differ_in_anything_but_their_seed_are_never_averaged(tmp_path):
    runs = [
        make_run(tmp_path / "a", "seed=0", returns=(0, 100)),
        make_run(tmp_path / "b", "seed=1", "render.backend=ray", returns=(0, 300)),  # looks alike, and learns alike
        make_run(tmp_path / "c", "seed=0", "model.beta=0.125", returns=(0, 500)),
        make_run(tmp_path / "d", "seed=0", "size=paper", returns=(0, 700)),
    ]
    figure, summary = curves.draw(runs, None)
    names = list(summary["methods"])
    assert sorted(len(summary["methods"][name]) for name in names) == [1, 1, 2]
    (both,) = (name for name in names if summary["statistics"][name]["seeds"] == 2)
    assert "model.beta=0.125" not in both and any("model.beta=0.125" in name for name in names)
    assert any("size=paper" in name and " more" in name for name in names)
    found = summary["statistics"][both]
    assert found["final"] == {"value": 200.0, "low": 100.0, "high": 300.0}
    assert found["area"]["value"] == 100.0
    assert found["steps_to"]["100"] == pytest.approx([5000.0, 5000.0 / 3])
    assert found["steps_to"]["300"] == [None, 5000.0] and set(found["steps_to"]) == {"100", "200", "300"}
    assert len(figure.axes[0].collections) == 3  # an interval for each


def test_methods_of_many_differences_are_told_apart_by_those_that_matter(tmp_path):
    runs = [
        make_run(tmp_path / "a", "seed=0"),
        make_run(tmp_path / "b", "seed=1", "policy.entropy=3e-3"),
        make_run(tmp_path / "c", "seed=2", "size=paper"),
    ]
    names = curves.methods({run: run_dir.load(run) for run in runs})
    assert len(set(names.values())) == 3
    assert "policy.entropy=0.001" in names[runs[0]] and "policy.entropy=0.003" in names[runs[1]]


def test_a_run_without_evaluations_is_named(tmp_path):
    with pytest.raises(UserError, match="no evaluations yet"):
        curves.curve(tmp_path)


def test_any_metric_is_drawn_for_the_runs_that_have_it(tmp_path):
    runs = [make_run(tmp_path / "a", "model=xy"), make_run(tmp_path / "b", "model=x")]
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"env_step": 5000, "model/kl_y": 3.0}) + "\n")
    first, second = curves.draw_metrics(runs, [curves.METRIC, "model/kl_y"]).axes
    assert [len(axes.get_lines()) for axes in (first, second)] == [2, 1]
    with pytest.raises(UserError, match=r"no metric model/kl_q; did you mean model/kl_"):
        curves.draw_metrics(runs, ["model/kl_q"])


def test_tables_tell_the_last_value_of_each_run(tmp_path):
    runs = [make_run(tmp_path / "a", "model=xy", returns=(1, 2, 3)), make_run(tmp_path / "b", "model=x", "seed=4")]
    _, _, a, b = curves.table(runs).splitlines()
    assert a.split(" | ")[:6] == ["| a", "x and y (Denoised MDP, Fig. 2b)", "0", "10,000", "", "3"]
    assert b.split(" | ")[:6] == ["| b", "x alone (Dreamer)", "4", "5,000", "", "20"]
    told = curves.last_values(runs[0])
    assert "a, env step 10,000" in told and f"| `{curves.METRIC}` | 3 | mean return" in told


class Bandit:
    """Pays 1 minus the distance of the action from 0.5, for four steps."""

    def reset(self):
        self.t = 0
        return dm_env.restart(None)

    def step(self, action):
        self.t += 1
        reward = 1 - float(abs(action[0] / 2 - 0.5))  # its actions are in [-2, 2]
        return dm_env.termination(reward, None) if self.t == 4 else dm_env.transition(reward, None)

    def action_spec(self):
        return specs.BoundedArray((1,), float, -2.0, 2.0)


def test_baselines_are_what_the_policies_earn():
    rng = np.random.default_rng(0)
    asked = []

    def policy():
        asked.append(0.5)
        return np.array([0.5])

    assert baselines.episode_return(Bandit(), policy, action_repeat=2) == pytest.approx(4.0)  # type: ignore[arg-type]
    assert len(asked) == 2
    action, returns = baselines.best_constant(Bandit(), rng, candidates=100, episodes=2)  # type: ignore[arg-type]
    assert abs(action[0] - 0.5) < 0.1 and returns.shape == (2,)
    random = baselines.random_returns(Bandit(), rng, episodes=500, action_repeat=1)  # type: ignore[arg-type]
    assert random.mean() == pytest.approx(4 * (1 - 0.625), abs=0.1)  # E|u - 0.5| over [-1, 1] is 0.625
