"""Where metrics go, and that a run which goes on tells no step twice."""

from __future__ import annotations

import importlib
import io
import json
import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from denoised_mdp.errors import UserError
from denoised_mdp.runs.logger import Logger, read_metrics
from denoised_mdp.runs.metrics import METRICS
from denoised_mdp.runs.progress import ProgressLine, Speed

ROOT = Path(__file__).resolve().parent.parent


def quiet(run_dir: Path, **settings: Any) -> Logger:
    return Logger(run_dir, **{"total_env_steps": 1000, "tensorboard": False, "progress": False} | settings)


def events(folder: Path) -> list[Any]:
    """All TensorBoard events in a folder, oldest file first: records of length, checksum, data, checksum."""
    Event: Any = importlib.import_module("tensorboardX.proto.event_pb2").Event
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_docs_list_the_same_metrics():
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert {name: meaning.replace("\\|", "|") for name, meaning in rows} == METRICS
    assert len(rows) == len(METRICS)


def test_lines_hold_plain_numbers(tmp_path):
    with quiet(tmp_path) as logger:
        logger.start()
        logger.log(500, {"model/loss": jnp.float32(1.5), "replay/steps": np.int64(251), "train/return": 3})
        logger.log(502, {"model/kl_x": float("nan"), "model/kl_y": jnp.inf})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[0] == '{"env_step": 500, "model/loss": 1.5, "replay/steps": 251, "train/return": 3}'
    assert json.loads(lines[1]) == {"env_step": 502, "model/kl_x": None, "model/kl_y": None}


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    logger = quiet(tmp_path)
    logger.start()
    logger.log(2, {"train/return": 1.0})
    assert read_metrics(tmp_path) == [{"env_step": 2, "train/return": 1.0}]
    logger.close()


def test_nothing_is_written_before_start(tmp_path):
    logger = Logger(tmp_path / "run", total_env_steps=10, wandb_mode="offline")
    with pytest.raises(RuntimeError, match="started"):
        logger.log(0, {"train/return": 1.0})
    logger.close()
    assert list(tmp_path.iterdir()) == []
    assert read_metrics(tmp_path / "run") == []


def test_unlisted_names_are_refused(tmp_path):
    with quiet(tmp_path) as logger:
        logger.start()
        with pytest.raises(ValueError, match="model/los;"):
            logger.log(0, {"model/los": 1.0, "model/loss": 1.0})
    assert read_metrics(tmp_path) == []


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
    with quiet(tmp_path) as logger:
        logger.start()
        for step in (100, 200, 200, 300):
            logger.log(step, {"train/return": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_step": 150, "train/ret')  # cut short by a kill
    with quiet(tmp_path) as logger:
        logger.start(200)
        logger.log(300, {"train/return": -1})
    assert [(line["env_step"], line["train/return"]) for line in read_metrics(tmp_path)] == [
        (100, 100), (200, 200), (200, 200), (300, -1),
    ]  # fmt: skip
    with quiet(tmp_path) as logger:
        logger.start()
        logger.log(0, {"train/return": 0})
        logger.log(2, {"train/return": 2})
    with quiet(tmp_path) as logger:
        logger.start(0)  # there may be a checkpoint of env step 0
    assert read_metrics(tmp_path) == [{"env_step": 0, "train/return": 0}]
    with quiet(tmp_path) as logger:
        logger.start()
    assert read_metrics(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard(tmp_path):
    Image.new("RGB", (4, 2), "red").save(tmp_path / "strip.png")
    with quiet(tmp_path, tensorboard=True) as logger:
        logger.start()
        logger.log(100, {"train/return": 2.5, "model/loss": float("nan")})
        logger.image(100, "evaluate/strip", tmp_path / "strip.png")
        logger.log(200, {"train/return": 3.5})
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path / "tensorboard")
        for value in event.summary.value
        if value.HasField("simple_value")
    ]
    assert scalars == [(100, "train/return", 2.5), (200, "train/return", 3.5)]
    images = [v.image for e in events(tmp_path / "tensorboard") for v in e.summary.value if v.HasField("image")]
    assert [(image.width, image.height) for image in images] == [(4, 2)]

    with quiet(tmp_path, tensorboard=True) as logger:
        logger.start(100)
    purges = [event.step for event in events(tmp_path / "tensorboard") if event.session_log.status == 1]
    assert purges[-1] == 101  # START: TensorBoard hides what it had from here on

    with quiet(tmp_path, tensorboard=True) as logger:
        logger.start()
    assert not any(event.summary.value for event in events(tmp_path / "tensorboard"))


class FakeWandb(SimpleNamespace):
    """Remembers what it is told."""

    class Error(Exception):
        """What wandb raises."""

    def __init__(self) -> None:
        super().__init__(started=[], logged=[], finished=0)

    def init(self, **arguments: Any) -> FakeWandb:
        self.started.append(arguments)
        return self

    def Settings(self, **arguments: Any) -> dict[str, Any]:
        return arguments

    def Video(self, path: str, format: str) -> tuple[str, str]:
        return path, format

    def define_metric(self, *arguments: Any, **more: Any) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        self.logged.append(row)

    def finish(self) -> None:
        self.finished += 1


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "wandb.errors", fake)
    for step in (None, 100):
        with quiet(tmp_path, wandb_mode="online", config={"seed": 3}) as logger:
            logger.start(step)
            logger.log(101, {"train/return": 1.5})
            logger.video(101, "evaluate/video", tmp_path / "a.mp4")
    first, second = fake.started
    assert first["id"] == second["id"] and len(first["id"]) == 8
    assert first["mode"] == "online" and first["resume"] == "allow" and first["config"] == {"seed": 3}
    assert fake.logged[:2] == [
        {"env_step": 101, "train/return": 1.5},
        {"env_step": 101, "evaluate/video": (str(tmp_path / "a.mp4"), "mp4")},
    ]
    assert fake.finished == 2


def test_wandb_is_needed_only_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    with quiet(tmp_path) as logger:
        logger.start()
        logger.video(0, "evaluate/video", tmp_path / "a.mp4")
    with quiet(tmp_path, wandb_mode="offline") as logger, pytest.raises(UserError, match="pip install wandb"):
        logger.start()


def test_wandb_without_an_account_is_one_clear_line(tmp_path, monkeypatch):
    fake = FakeWandb()

    def refuse(**_: Any) -> None:
        raise fake.Error("No API key\nconfigured")

    monkeypatch.setattr(fake, "init", refuse)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "wandb.errors", fake)
    with quiet(tmp_path, wandb_mode="online") as logger, pytest.raises(UserError, match="No API key configured"):
        logger.start()


# The progress line


class Clock:
    """A clock that stands still until told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_that_of_the_last_two_minutes():
    clock = Clock()
    speed = Speed(clock)
    assert speed.env_steps_per_second is None
    step = 0
    for second in range(301):  # a fast prefill, then training
        clock.now = float(second)
        speed.update(step)
        if second == 50:
            assert speed.env_steps_per_second == pytest.approx(1000)
        step += 1000 if second < 100 else 10
    assert speed.env_steps_per_second == pytest.approx(10)


def test_speed_counts_from_where_a_run_goes_on():
    clock = Clock()
    speed = Speed(clock)
    speed.update(50_000)
    clock.now = 10.0
    speed.update(50_200)
    assert speed.env_steps_per_second == pytest.approx(20)


ALL = {
    "evaluate/return_mean": 136.44,
    "model/loss": 11305.2,
    "policy/actor_loss": -12.34,
    "policy/critic_loss": 1.25,
    "speed/updates_per_second": 5.25,
}


def progress_line(console: Console) -> ProgressLine:
    clock = Clock()
    speed = Speed(clock)
    speed.update(0)
    clock.now = 10.0
    speed.update(12_000)
    return ProgressLine(100_000, speed, console)


def test_line_fits_any_width():
    line = progress_line(Console(file=io.StringIO()))
    line.update(12_000, ALL)
    assert line.line(200) == (
        "[####..........................]   12% 12,000/100,000  return 136.4  loss 11305  actor -12.3  critic 1.2  "
        "1200 steps/s  5.2 updates/s  0:01:13 left"
    )
    assert line.line(59) == " 12% 12,000/100,000  return 136.4  loss 11305  0:01:13 left"
    assert all(len(line.line(width)) <= width for width in range(1, 200))


def test_time_left_is_told_once_updates_have_been_made():
    line = progress_line(Console(file=io.StringIO()))
    line.update(12_000, {"model/loss": 11305.2})
    assert "left" not in line.line(200)


def test_a_log_stays_lines_whatever_the_environment_asks_for(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    line = ProgressLine(100_000, Speed(Clock()))
    line.update(12_000, ALL)
    line.close()
    assert "\x1b" not in capsys.readouterr().err


def test_line_says_how_many_seeds_it_is_about():
    line = ProgressLine(100_000, Speed(Clock()), Console(file=io.StringIO()), seeds=5)
    line.update(12_000, ALL)
    assert line.line(59) == "5 seeds,  12% 12,000/100,000  return 136.4  loss 11305"


def test_terminal_has_one_line_that_does_not_wrap():
    file = io.StringIO()
    line = progress_line(Console(file=file, force_terminal=True, width=60, _environ={"TERM": "xterm"}))
    for _ in range(3):
        line.update(12_000, ALL)
    line.close()
    line.close()
    written = file.getvalue()
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert visible.count("\n") == 1  # the one that close adds
    assert max(len(piece) for piece in re.split("[\r\n]", visible)) < 60
    assert "12% 12,000/100,000" in visible
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is back


def test_elsewhere_there_are_plain_lines_now_and_then():
    file = io.StringIO()
    line = progress_line(Console(file=file))
    for step in range(0, 12_001, 1000):
        line.update(step, ALL)
    line.close()
    line.close()
    written = file.getvalue()
    assert [re.search(r"(\d+)% ", text)[1] for text in written.splitlines()] == ["0", "12"]  # type: ignore[index]
    assert "\r" not in written and "\x1b" not in written
