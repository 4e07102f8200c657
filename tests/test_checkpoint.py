"""Checkpoints: exact, whole or absent, and clear about what does not fit."""

import errno
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError

from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint, disk


class State(NamedTuple):
    weights: dict
    updates: jax.Array


STATE = State({"a": jnp.arange(6.0).reshape(2, 3), "empty": jnp.zeros((0, 4))}, jnp.asarray(7, jnp.int32))


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path):
    path = checkpoint.save(tmp_path, 12, STATE, {"env_step": 12, "note": [1, 2]}, keep=1)
    back = checkpoint.load_state(path, jax.tree.map(jnp.zeros_like, STATE))
    jax.tree.map(np.testing.assert_array_equal, back, STATE)
    assert [leaf.shape for leaf in jax.tree.leaves(back)] == [leaf.shape for leaf in jax.tree.leaves(STATE)]
    assert back.updates.dtype == jnp.int32
    assert checkpoint.load_progress(path) == {"env_step": 12, "note": [1, 2]}


def test_the_newest_are_kept_and_a_half_written_one_is_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for step in (5, 10, 200):
        checkpoint.save(tmp_path, step, STATE, {}, keep=2)
    (tmp_path / checkpoint.FOLDER / "partial").mkdir()
    assert [int(path.name) for path in checkpoint.all_of(tmp_path)] == [10, 200]
    latest = checkpoint.latest(tmp_path)
    assert latest is not None and int(latest.name) == 200


def test_a_step_can_be_saved_again(tmp_path):
    checkpoint.save(tmp_path, 5, STATE, {"n": 1}, keep=2)
    path = checkpoint.save(tmp_path, 5, STATE, {"n": 2}, keep=2)
    assert checkpoint.load_progress(path) == {"n": 2} and len(checkpoint.all_of(tmp_path)) == 1


def cut_at_tenths(data: bytes) -> list[bytes]:
    return [data[: len(data) * tenths // 10] for tenths in range(10)]


@pytest.mark.parametrize("file", ["state.safetensors", "progress.json", "checksums.json"])
def test_a_damaged_newest_one_yields_to_the_one_before(file, tmp_path, caplog):
    """Cut at every tenth of its length, overwritten, with one bit changed at every tenth, deleted."""
    first, last = (checkpoint.save(tmp_path, step, STATE, {"env_step": step}, keep=2) for step in (5, 10))
    whole = (last / file).read_bytes()
    places = [len(whole) * tenths // 10 for tenths in range(10)]
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    for damaged in (*cut_at_tenths(whole), b"\xff" * 99, *flipped, None if file != "checksums.json" else b"[]"):
        checkpoint.set_aside_damaged(tmp_path)
        assert checkpoint.latest_sound(tmp_path) == last and checkpoint.all_of(tmp_path) == [first, last]
        (last / file).unlink() if damaged is None else (last / file).write_bytes(damaged)
        assert checkpoint.latest_sound(tmp_path) == first
        checkpoint.set_aside_damaged(tmp_path)
        assert checkpoint.all_of(tmp_path) == [first]
        assert f"{last}: " in caplog.text and "; the run resumes from env step 5" in caplog.text
        last = checkpoint.save(tmp_path, 10, STATE, {"env_step": 10}, keep=2)
    checkpoint.remove(last)
    (first / file).write_bytes(b"")  # nothing to yield to
    with pytest.raises(UserError, match="no earlier checkpoint is sound"):
        checkpoint.set_aside_damaged(tmp_path)
    assert checkpoint.all_of(tmp_path) == [first] == [checkpoint.latest_sound(tmp_path)]


def test_a_kill_while_the_only_checkpoint_is_saved_again_loses_nothing(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 5, STATE, {"env_step": 5, "n": 1}, keep=1)
    rename = Path.rename

    def killed(path, target):
        if path.name == "partial":
            raise RuntimeError("killed")
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Path, "rename", killed)
        checkpoint.save(tmp_path, 5, STATE, {"env_step": 5, "n": 2}, keep=1)
    assert checkpoint.all_of(tmp_path) == []
    checkpoint.set_aside_damaged(tmp_path)
    (path,) = checkpoint.all_of(tmp_path)
    assert checkpoint.load_progress(path)["n"] == 2 and path.name == "000000005"


def test_checksums_that_should_be_there_are_missed(tmp_path):
    path = checkpoint.save(tmp_path, 5, STATE, {"env_step": 5, "replay": {"checksums": []}}, keep=1)
    assert checkpoint.damage(path) is None
    (path / checkpoint.CHECKSUMS).unlink()
    assert "checksums.json is missing" in str(checkpoint.damage(path))


def test_a_number_that_has_changed_on_the_disk_is_never_used(tmp_path):
    path = checkpoint.save(tmp_path, 5, STATE, {"env_step": 5}, keep=2)
    (path / "progress.json").write_text(json.dumps({"env_step": 6}))
    with pytest.raises(UserError, match=r"progress.json cannot be read: its content is not what was written"):
        checkpoint.load_progress(path)
    (path / checkpoint.CHECKSUMS).unlink()  # a checkpoint of before there were any
    assert checkpoint.load_progress(path) == {"env_step": 6}


def test_what_save_returned_from_is_on_the_disk(tmp_path, monkeypatch):
    """The files, the folder of their names, and the folders of its name."""
    synced: list[str] = []
    monkeypatch.setattr(disk, "sync", lambda path: synced.append(path.name))
    checkpoint.save(tmp_path, 5, STATE, {"env_step": 5}, keep=2)
    assert set(synced) == {
        "state.safetensors", "progress.json", "checksums.json", "partial", checkpoint.FOLDER, tmp_path.name
    }  # fmt: skip
    assert synced[-2:] == [checkpoint.FOLDER, tmp_path.name] and synced[-3] == "partial"


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save(tmp_path, 1, STATE, {}, keep=1)
    assert caught.value.errno == errno.ENOSPC


def test_what_does_not_fit_is_named(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE, {}, keep=1)
    other = State({"a": jnp.zeros((3, 3)), "new": jnp.zeros(2)}, STATE.updates)
    with pytest.raises(ValueError, match=r"missing weights/new.*unexpected weights/empty.*weights/a is \(2, 3\)"):
        checkpoint.load_state(path, other)
    (path / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load_state(path, STATE)
