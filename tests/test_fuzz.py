"""Bytes that nobody wrote: every file of a run, folders of videos, command lines. Each works, or is one UserError.

FUZZ_EXAMPLES=2000 pytest tests/test_fuzz.py tries more of them.
"""

import copy
import json
import os
import string
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from denoised_mdp import cli
from denoised_mdp.config import compose, schema
from denoised_mdp.envs.env import Step
from denoised_mdp.envs.video import directory, source
from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.logger import read_metrics
from denoised_mdp.runs.replay import Replay

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
pytestmark = pytest.mark.filterwarnings("ignore")  # a warning that names the damage is welcome

INSERTED = [b"null", b"-1", b"1e999", b"{}", b"\n", b"[" * 10**5]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Cut, flipped, overwritten, doubled, with bytes put in between, or something else altogether."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at, count = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        match draw(st.sampled_from(("cut", "flip", "overwrite", "insert", "delete", "double", "replace"))):
            case "cut":
                del data[at:]
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                data[at : at + count] = draw(st.binary(min_size=count, max_size=count))
            case "insert":
                data[at:at] = draw(st.binary(max_size=40) | st.sampled_from(INSERTED))
            case "delete":
                del data[at : at + count]
            case "double":
                data += bytes(data)
            case _:
                data[:] = draw(st.binary(max_size=80))
    return bytes(data)


@st.composite
def altered(draw: st.DrawFn, tree: Any) -> bytes:
    """Valid JSON, which YAML is too, in which one value is another one, or lacks."""
    tree = copy.deepcopy(tree)
    place, inner = None, tree
    while isinstance(inner, dict | list) and inner and (place is None or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        place, inner = (inner, key), inner[key]
    assert place is not None
    if draw(st.booleans()):
        place[0][place[1]] = draw(JSON)
    else:
        del place[0][place[1]]
    return json.dumps(tree).encode()


class State(NamedTuple):
    weights: dict
    updates: jax.Array


STATE = State({"a": jnp.arange(6.0).reshape(2, 3)}, jnp.asarray(7, jnp.int32))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A checkpoint without checksums, so that damage reaches the readers behind them."""
    path = checkpoint.save(tmp_path_factory.mktemp("run"), 12, STATE, {"env_step": 12, "replay": {}}, keep=1)
    (path / checkpoint.CHECKSUMS).unlink()
    return path


@pytest.mark.parametrize("file", ["state.safetensors", "progress.json"])
def test_a_checkpoint_s_files(file, saved):
    whole = (saved / file).read_bytes()

    @fuzzed
    @given(damaged(whole))
    def check(data):
        (saved / file).write_bytes(data)
        try:
            if file == "progress.json":
                assert isinstance(checkpoint.load_progress(saved), dict)
            else:
                back = checkpoint.load_state(saved, STATE)
                assert [a.shape for a in jax.tree.leaves(back)] == [a.shape for a in jax.tree.leaves(STATE)]
        except UserError as error:
            assert str(saved / file) in str(error)
            assert file != "progress.json" or checkpoint.damage(saved) is not None

    try:
        check()
    finally:
        (saved / file).write_bytes(whole)


def test_a_run_s_configuration(tmp_path):
    config = compose.compose(["size=debug", f"run_dir={tmp_path}"])
    schema.save(config, tmp_path / run_dir.CONFIG)
    whole = (tmp_path / run_dir.CONFIG).read_bytes()

    @fuzzed
    @given(damaged(whole) | altered(config.model_dump()))
    def check(data):
        (tmp_path / run_dir.CONFIG).write_bytes(data)
        try:
            assert isinstance(run_dir.load(tmp_path), schema.Config)
        except UserError as error:
            assert len(str(error).splitlines()) == 1

    check()


def test_metrics(tmp_path):
    whole = b'{"env_step": 0, "train/return": 1.5}\n{"env_step": 1000, "model/loss": null}\n'

    @fuzzed
    @given(damaged(whole) | JSON.map(lambda value: repr(value).encode(errors="replace") + b"\n"))
    def check(data):
        (tmp_path / "metrics.jsonl").write_bytes(data)
        assert all(isinstance(line["env_step"], int) for line in read_metrics(tmp_path))

    check()


def a_replay(folder: Path) -> Replay:
    replay = Replay(folder, observation_shape=(4, 4, 3), action_size=2, capacity=100)
    replay.restore(None)
    for t in range(12):
        frame = np.full((4, 4, 3), t, np.uint8)
        replay.add(Step(frame, float(t), t % 6 == 0, t % 6 == 5, False, {}), np.zeros(2, np.float32))
    replay.close()
    return replay


@pytest.mark.parametrize("file", ["spec.json", "episode-00000001-stream-000.bin"])
def test_a_replay_s_files(file, tmp_path):
    a_replay(tmp_path)
    whole = (tmp_path / file).read_bytes()
    bytes_of = damaged(whole) | altered(json.loads(whole)) if file == "spec.json" else damaged(whole)

    @fuzzed
    @given(bytes_of)
    def check(data):
        (tmp_path / file).write_bytes(data)
        try:
            replay = Replay.open(tmp_path, observation_shape=(4, 4, 3), action_size=2)
            assert replay.num_steps <= 12 or len(data) > len(whole)
            if replay.can_sample(3):
                assert replay.sample(np.random.default_rng(0), 1, 3, 2).action.shape == (1, 3, 2, 2)
        except UserError as error:
            assert len(str(error).splitlines()) == 1

    check()


def test_folders_of_videos(tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(clip / f"{i}.png")
    whole = (clip / "1.png").read_bytes()

    @fuzzed
    @given(damaged(whole), st.sampled_from(["1.png", "2.jpg", "movie.mp4", "notes.txt", "é\n.gif"]))
    def check(data, name):
        file = clip / name if not name.endswith("mp4") else tmp_path / name
        file.write_bytes(data)
        try:
            source.check(str(tmp_path), size=8)
            frames = directory.decoded(clip, 8, colour=False, cache=str(tmp_path / "cache"))
            assert frames.dtype == np.uint8 and frames.shape[1:3] == (8, 8)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        finally:
            file.unlink()
            (clip / "1.png").write_bytes(whole)

    check()


WORDS = st.sampled_from(
    [
        "env",
        "env.task",
        "noise",
        "model",
        "size",
        "seed",
        "seeds",
        "run_dir",
        "train.updates",
        "model.beta",
        "policy",
        "replay.source",
        "+new",
        "~size",
        "-m",
        "--cfg",
        "job",
        "hydra.run.dir",
        "size=debug",
        "${seed}",
        "null",
        "true",
        "-1",
        "1e999",
        "[1,2]",
        "{a:1}",
        "a,b",
        "range(1,3)",
        "glob(*)",
        "'",
        '"',
        "=",
        ":",
        "@",
        "$(",
        "~",
        "..",
        "/",
    ]
)


@fuzzed
@given(
    st.lists(st.lists(WORDS | st.text(string.printable, max_size=6), min_size=1, max_size=4).map("".join), max_size=3)
)
def test_command_lines_of_training(overrides):
    try:
        assert isinstance(compose.compose(overrides), schema.Config)
    except UserError as error:
        assert str(error)


@fuzzed
@given(
    st.lists(st.lists(WORDS | st.text(string.printable, max_size=6), min_size=1, max_size=4).map("".join), max_size=3)
)
def test_command_lines_about_a_run(overrides):
    with pytest.raises(UserError):
        cli.parse_run_options(cli.RunOptions, [*overrides, "run_dir=/nowhere/at/all"])
