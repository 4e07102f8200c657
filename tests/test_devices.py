"""Batches divided among two devices, and among two processes: the same run but for the order of sums."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training.devices import Devices

TESTS = Path(__file__).resolve().parent


def flags(devices: int) -> str:
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"


def start(*overrides: str, devices: int = 1, **environment: str) -> subprocess.Popen:
    command = [sys.executable, str(TESTS / "devices_run.py"), *overrides]
    env = os.environ | {"XLA_FLAGS": flags(devices), "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_processes(run_dir: Path) -> list[subprocess.Popen]:
    """Two, as srun starts them."""
    port = free_port()
    shared: dict[str, Any] = {
        "SLURM_JOB_ID": str(port - (65535 - 2**12 + 1)),  # from which jax has the port
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
    }
    return [
        start(f"run_dir={run_dir}", "distributed=true", SLURM_PROCID=str(i), SLURM_LOCALID=str(i), **shared)
        for i in range(2)
    ]


def free_port() -> int:
    for port in range(65535 - 2**12 + 1 + os.getpid() % 2000, 65535):
        with socket.socket() as taken:
            if taken.connect_ex(("localhost", port)):
                return port
    raise OSError("no port is free")


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, Path]:
    """On one device, on two, and beside another seed, each of both on its device."""
    alone, divided, seeds = (tmp_path_factory.mktemp("runs") / name for name in ("alone", "divided", "seeds"))
    several = [f"run_dir={alone}", "and", f"run_dir={divided}", "devices=2"]
    several += ["and", f"run_dir={seeds}", "devices=2", "seeds=2"]
    finish([start(*several, devices=2)])
    return alone, divided, seeds / "seed0"


def assert_same_but_for_rounding(left: Path, right: Path) -> None:
    """Everything learned, and the moments of the gradients it was learned from; and the very same experience."""
    paths = [checkpoint.all_of(folder)[-1] for folder in (left, right)]
    assert [path.name for path in paths] == ["000000060"] * 2
    assert checkpoint.load_progress(paths[0]) == checkpoint.load_progress(paths[1])
    arrays, others = (load_file(path / "state.safetensors") for path in paths)
    worst = 0.0
    for name, array in arrays.items():
        if array.dtype == np.float32 and array.size:
            worst = max(worst, float(np.abs(array - others[name]).max() / np.abs(array).max().clip(1e-12)))
    assert worst < 1e-5, "of the largest number in its array"  # 8e-7 was measured
    replays = [Replay.open(folder) for folder in (left, right)]
    for episode in replays[0].episodes():
        rows, again = (replay.episode(episode.id) for replay in replays)
        for name in rows:
            np.testing.assert_array_equal(rows[name], again[name])


def test_two_devices_learn_what_one_learns(runs):
    alone, divided, of_seeds = runs
    assert_same_but_for_rounding(alone, divided)
    assert_same_but_for_rounding(alone, of_seeds)


def test_two_processes_learn_what_one_learns(runs, tmp_path):
    """The second one reads its share of the batches and writes nothing."""
    finish(start_processes(tmp_path / "run"))
    assert_same_but_for_rounding(runs[0], tmp_path / "run")


DIVIDED = """
import re, jax, numpy as np
from flax import nnx
from denoised_mdp.model import convolutions
from denoised_mdp.model.nets import ConvEncoder
from denoised_mdp.training.devices import Devices

convolutions._on_cpu = lambda: False  # as they are computed on GPUs
devices = Devices(2, 6)
encoder = devices.replicate(ConvEncoder(64, 2, 8, nnx.Rngs(0)))
images = devices.divide(np.zeros((1, 5, 6, 64, 64, 3), np.float32))
encode = devices.compiled(lambda encoder, images: encoder(images[0]))
print(*re.findall(r"= f32\\[(\\d+),\\S+ convolution", encode.lower(encoder, images).compile().as_text()))
"""


def test_each_device_computes_its_share_of_the_pictures():
    """Of 5 x 6 pictures, which one array of 30 holds, 15 in each layer of four."""
    env = os.environ | {"XLA_FLAGS": flags(2), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", DIVIDED], env=env, capture_output=True, text=True, timeout=250)
    assert done.stdout.split() == ["15"] * 4, done.stderr


ONE_OF_TWO = """
import jax, numpy as np
from denoised_mdp.config.compose import compose
from denoised_mdp.agent import Agent
from denoised_mdp.agent.batch import Gathered, Rows
from denoised_mdp.training.devices import Devices
from denoised_mdp.training.learner import AgentSnapshot, Keys, Pace, Seed
from denoised_mdp.training.speeds import Speeds
from denoised_mdp.training.vectorized import VectorizedLearner, vectorized_agent

agent, devices = Agent(compose(["size=debug", "model=x"]), 1), Devices(2, 1, seeds=2)
key, places = jax.random.key(0), np.zeros((1, 3, 1), np.int32)
rows = Rows(np.zeros((1, 64 * 64 * 3), np.uint8), *np.zeros((2, 1), np.float32), *np.zeros((2, 1), bool))
rows = devices.replicate(rows._replace(action=np.zeros((1, 1), np.float32)))
snapshot = AgentSnapshot(agent.create(key), agent.initial(1))
seeds = [Seed(snapshot, Keys(key, key), lambda contents, updates: Gathered(rows, places))] * 2
pace = Pace(1, lambda: False, Speeds())
learner = VectorizedLearner(vectorized_agent(agent, 2, devices), seeds, pace, devices)
learner.learn({1: 1}, {1: None})
print(*(int(learner.snapshot(seed).state.updates) for seed in (0, 1)))
"""


def test_a_seed_whose_device_replay_is_on_both_devices_can_learn_alone():
    env = os.environ | {"XLA_FLAGS": flags(2), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ONE_OF_TWO], env=env, capture_output=True, text=True, timeout=250)
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_what_cannot_be_divided_is_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"^devices=1000: there are \d+ \(cpu\)$"):
        Devices(1000, 1000)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"^train.batch_size=5: cannot be divided among devices=1 in each of 2 processes$"
    ):
        Devices(1, 5)
