"""Video sources: procedures and directories."""

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denoised_mdp.envs import video
from denoised_mdp.envs.video import directory
from denoised_mdp.visualize import encode

SEED = np.random.SeedSequence(7)


def write_video(path: Path, gray: int, frames: int = 5) -> None:
    gray_frames = np.stack([np.full((48, 80, 3), gray + t, np.uint8) for t in range(frames)])
    encode(path, gray_frames, frames_per_second=10)


def write_images(folder: Path, gray: int, frames: int = 5) -> None:
    folder.mkdir(parents=True)
    for t in range(frames):
        Image.fromarray(np.full((20, 30, 3), gray + t, np.uint8)).save(folder / f"{t:03d}.png")


@pytest.mark.parametrize("source", ["pink", "leaves"])
@pytest.mark.parametrize("size", [64, 96])
def test_procedures_are_functions_of_the_seed(source, size):
    a, b = (video.load(source, seed=SEED, split="train", count=30, size=size) for _ in range(2))
    other = video.load(source, seed=np.random.SeedSequence(8), split="train", count=30, size=size)
    assert a.frames.shape == (30, size, size) and a.frames.dtype == np.uint8
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.ids, b.ids)
    assert np.abs(a.frames.astype(int) - other.frames).mean() > 10
    assert a.ids[0] != other.ids[0]


@pytest.mark.parametrize(("source", "slope"), [("pink", (-2.2, -1.8)), ("leaves", (-3.4, -1.8))])
def test_procedures_look_natural(source, slope):
    """Contrast, a power spectrum that falls like that of natural pictures, and motion without jumps."""
    frames = video.load(source, seed=SEED, split="train", count=200, size=64).frames / 255
    assert 0.35 < frames.mean() < 0.6 and 0.1 < frames.std() < 0.3
    flat = frames - frames.mean((1, 2), keepdims=True)
    window = np.hanning(64)[:, None] * np.hanning(64)
    power = (np.abs(np.fft.fft2(flat[::10] * window)) ** 2).mean(0)
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(64) * 64] * 2))
    rings = np.arange(2, 25)
    spectrum = [power[np.abs(k - ring) < 0.5].mean() for ring in rings]
    fitted = np.polyfit(np.log(rings), np.log(spectrum), 1)[0]
    assert slope[0] < fitted < slope[1]

    def correlation(lag: int) -> float:
        a, b = flat[:-lag], flat[lag:]
        return (a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())

    assert 0.7 < correlation(1) < 0.98 and correlation(50) < 0.4


def test_leaves_move_smoothly():
    """No layer pops up: no frame differs from the one before much more than frames usually do."""
    frames = video.load("leaves", seed=SEED, split="train", count=300, size=64).frames.astype(int)
    change = np.abs(np.diff(frames, axis=0)).mean((1, 2))
    assert change.max() < 4 * np.median(change)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Twelve clips of five frames; clip i, in order of names, has the gray levels 16 i + 20 to 16 i + 24."""
    for i in range(12):
        if i % 2:
            write_video(tmp_path / f"{i:02d}.mp4", 16 * i + 20)
        else:
            write_images(tmp_path / f"{i:02d}", 16 * i + 20)
    return tmp_path


def test_a_directory_is_videos_and_folders_of_images(clips: Path):
    pytest.importorskip("av")
    (clips / "notes.txt").write_text("not a clip")
    video.check(str(clips))
    frames, ids = video.load(str(clips), seed=SEED, split="train", count=100, size=64)
    assert frames.shape == (100, 64, 64)
    # Eleven clips are for training: all are used, whole, before any comes again, and a clip's frames are in order.
    runs = ids.reshape(20, 5)
    assert (runs == runs[:, :1]).all()
    assert len(set(runs[:11, 0])) == 11
    expected = 16 * ids + 20 + np.tile(np.arange(5), 20)
    assert np.abs(frames.mean((1, 2)) - expected).max() < 2.5  # lossy compression
    other = video.load(str(clips), seed=np.random.SeedSequence(8), split="train", count=100, size=64)
    assert not (other.ids == ids).all()


def test_training_and_evaluation_share_no_clip(clips: Path):
    pytest.importorskip("av")
    train, test = ({int(i) for seed in range(3) for i in load_ids(clips, seed, split)} for split in ("train", "eval"))
    assert len(train) == 11 and len(test) == 1 and not train & test


def load_ids(source: Path, seed: int, split) -> np.ndarray:
    return video.load(str(source), seed=np.random.SeedSequence(seed), split=split, count=60, size=8).ids


def test_a_share_is_held_out():
    for count in (2, 9, 10, 30, 300):
        train, test = directory.members(count, "train"), directory.members(count, "eval")
        assert sorted([*train, *test]) == list(range(count))
        assert len(test) == max(1, round(count / 10))


def test_a_single_clip_is_for_both_with_a_warning(tmp_path: Path, caplog):
    write_images(tmp_path / "only", 50)
    for split in ("train", "eval"):
        assert (load_ids(tmp_path, 0, split) == 0).all()
    assert "single clip" in caplog.text


def test_the_whole_frame_is_squeezed_to_a_square(tmp_path: Path):
    image = np.zeros((20, 60), np.uint8)
    image[:, 30:] = 200
    (tmp_path / "clip").mkdir()
    Image.fromarray(image).save(tmp_path / "clip" / "0.png")
    frame = video.load(str(tmp_path), seed=SEED, split="train", count=1, size=16).frames[0]
    assert (frame[:, :7] == 0).all() and (frame[:, 9:] == 200).all()


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="neither pink nor leaves nor a directory"):
        video.check("pnk")
    with pytest.raises(ValueError, match=r"holds neither videos .* nor images"):
        video.check(str(tmp_path))
    write_images(tmp_path / "good", 50)
    video.check(str(tmp_path))
    (tmp_path / "good" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read"):
        video.check(str(tmp_path))


def test_a_broken_video_is_named(tmp_path: Path):
    pytest.importorskip("av")
    write_images(tmp_path / "good", 50)
    (tmp_path / "broken.mp4").write_bytes(b"not a film")
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be read") as caught:
        video.check(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_videos_without_pyav_say_what_to_install(tmp_path: Path, monkeypatch):
    write_video(tmp_path / "a.mp4", 50)
    real = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ValueError, match=r'pip install "av>=14"'):
        video.check(str(tmp_path))
