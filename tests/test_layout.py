"""Imports point one way, from room to room; and what workers and command lines import does not bring jax."""

import ast
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from denoised_mdp import cli

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "denoised_mdp"
# By room, how high it stands: it may import what stands lower, and its own files.
FLOORS = {
    "errors": 0,
    "cache": 0,
    "variables": 0,
    "model": 1,
    "envs": 1,
    "config": 1,
    "agent": 2,
    "runs": 3,
    "analysis": 4,
}
FLOORS |= {"reference": 4, "cli": 4, "training": 5, "commands": 6, "__main__": 7}


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports from, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (module.split(".")[1] for module in modules if module.startswith(f"{PACKAGE}."))


def test_imports_point_down():
    files = [path for path in (ROOT / PACKAGE).rglob("*.py") if path != ROOT / PACKAGE / "__init__.py"]
    rooms = {path: path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0] for path in files}
    assert set(rooms.values()) == set(FLOORS)
    upward = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path, room in rooms.items()
        for other in imported(path)
        if other != room and FLOORS[other] >= FLOORS[room]
    ]
    assert not upward


ROOMS = ("config", "envs", "model", "agent", "runs", "analysis", "reference", "training", "commands")


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_first_file_names_its_other_files(room):
    first = (ROOT / PACKAGE / room / "__init__.py").read_text()
    assert not [path.stem for path in (ROOT / PACKAGE / room).glob("[!_]*.py") if path.stem not in first]


@pytest.mark.parametrize("module", ["errors", "envs", "config", "config.compose", "runs.replay", "runs.run_dir"])
def test_no_jax_comes_along(module):
    code = f"import sys, {PACKAGE}.{module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


class Reached(BaseException):
    """The first gradient."""


def test_the_way_to_the_first_gradient_is_short(tmp_path, monkeypatch):
    """From the command to `jax.grad` in 8 calls, with the learner of `size=small`, the default."""
    from denoised_mdp.commands.train import main
    from denoised_mdp.config.compose import compose
    from denoised_mdp.training import learner, loop

    way: list[tuple[str, str]] = []

    def grad(*_, **__):
        for frame in traceback.extract_stack():
            path = Path(frame.filename)
            if path.is_relative_to(ROOT / PACKAGE) and frame.name != "body":  # that of a scan
                way.append((path.name, frame.name))
        raise Reached

    overrides = ["size=debug", "model=x", "env=sunlight", "env.episode_frames=40", "logger.tensorboard=false"]
    overrides += ["model.normalize_reward=true", "model.reward_variance_decay=0.99", "train.prefill=60"]
    overrides += ["train.every=20", "evaluate.episodes=1", f"run_dir={tmp_path / 'run'}"]
    monkeypatch.setattr(loop, "check_metrics", lambda *_: None)
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)
    monkeypatch.setattr(learner.jax, "grad", grad)
    with pytest.raises(Reached):
        main(compose(overrides))
    assert way == [
        ("train.py", "main"),
        ("loop.py", "train"),
        ("loop.py", "train"),  # `Training.train`
        ("learner.py", "learn"),
        ("agent.py", "_train_chunk"),
        ("agent.py", "train_step"),
        ("reward.py", "update"),
        ("world_model.py", "update"),
    ]


def test_a_metric_that_is_not_listed_is_found_before_anything_is_collected(tmp_path, monkeypatch):
    from denoised_mdp.agent.actor_critic import DynamicsLearner
    from denoised_mdp.config.compose import compose
    from denoised_mdp.training import loop

    update = DynamicsLearner.update

    def with_another(self, *arguments):
        state, metrics = update(self, *arguments)
        return state, {"actor_los": metrics["actor_loss"]} | metrics

    monkeypatch.setattr(DynamicsLearner, "update", with_another)
    monkeypatch.setattr(loop.Run, "begin_episode", None)
    with pytest.raises(ValueError, match="no such metric: policy/actor_los; new names are listed in"):
        loop.train(compose(["size=debug", "model=x", "env=sunlight", f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_one_private_function_of_hydra_is_used_and_its_version_is_held():
    """`hydra._internal` may change in any release, and each allowed release must still have its command line's parser.

    Hydra has no public way to read its own options before it runs.
    """
    lines = [line for path in (ROOT / PACKAGE).rglob("*.py") for line in path.read_text().splitlines()]
    assert [line for line in lines if "._internal" in line] == [
        "from hydra._internal.utils import get_args_parser",
    ]
    assert "hydra-core>=1.3.8,<1.4" in (ROOT / "requirements.txt").read_text().splitlines()
    from hydra._internal.utils import get_args_parser

    with cli.help_that_is_no_text():
        options = vars(get_args_parser().parse_args(["a=b"]))
    assert options["overrides"] == ["a=b"]
    own = {"multirun", "cfg", "info", "config_path", "config_name", "config_dir", "experimental_rerun"}
    assert own <= options.keys(), "cli.py asks for these"
