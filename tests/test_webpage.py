"""The report of many runs: one file with everything inside, and the same as Markdown."""

import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image
from test_curves import make_run

from denoised_mdp.analysis import table1, webpage
from denoised_mdp.commands import report as report_command
from denoised_mdp.errors import UserError
from denoised_mdp.runs import run_dir

BASELINES = {"task": "cheetah_run", "random_mean": 7.6, "best_constant_mean": 4.1}


@pytest.fixture
def runs(tmp_path):
    video = ["noise=video_background"]
    runs = [
        make_run(tmp_path / "xy0", *video, "model=xy", "seed=0", returns=(0, 150, 300)),
        make_run(tmp_path / "xy1", *video, "model=xy", "seed=1", returns=(0, 50, 100)),
        make_run(tmp_path / "x0", *video, "model=x", "seed=0", returns=(0, 10, 20)),
        make_run(tmp_path / "walker", "env.task=walker_walk", "seed=0", returns=(0, 10, 20)).rename(tmp_path / "a <b>"),
    ]
    costs = [{"env_step": step, "speed/cpu_seconds": 900.0, "speed/memory_mib": 2048.0} for step in (5000, 10000)]
    with (runs[0] / "metrics.jsonl").open("a") as lines:
        lines.writelines(json.dumps(line) + "\n" for line in costs)
    (runs[0] / "videos").mkdir()
    for step, grey in ((5000, 0), (10000, 200)):
        Image.new("RGB", (8, 6), (grey, grey, grey)).save(runs[0] / "videos" / f"{step:09d}.png")
    estimate = {"value": 0.51, "low": 0.4, "high": 0.6}
    found = {"headline": dict.fromkeys(webpage.HEADLINE, estimate), "alarms": [{"name": "swapped", "text": "x is y"}]}
    (runs[0] / "factorization.json").write_text(json.dumps(found))
    evaluated = {"env_step": 10000, "seed": 1841, "return_mean": 250.0, "return_low": 214.0, "return_high": 286.0}
    evaluated |= {"noise": run_dir.load(runs[0]).noise.model_dump(), "returns": [240.0, 260.0]}
    (runs[0] / "evaluation-000010000-seed1841.json").write_text(json.dumps(evaluated))
    evaluated |= {"seed": 7, "return_mean": 33.0, "return_low": 30.0, "return_high": 36.0}
    evaluated |= {"noise": run_dir.load(runs[3]).noise.model_dump()}
    (runs[0] / "evaluation-000010000-seed7.json").write_text(json.dumps(evaluated))
    return runs


class Reader(html.parser.HTMLParser):
    """Collects tags, their sources and the text; every tag that opens must close."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.sources += [values[name] for name in ("src", "href") if name in values]
        if tag not in ("meta", "img", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_page_holds_all_and_fetches_nothing(runs, tmp_path):
    blocks = webpage.report(runs, {"cheetah_run": BASELINES})
    page, text = webpage.write(tmp_path / "report.html", blocks, "all runs")
    reader = Reader()
    reader.feed(page.read_text())
    assert not reader.open and "<script" not in page.read_text()
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert len(reader.sources) == 3  # two worlds, and the newest decomposition of one run
    for words in (
        "4 runs in 2 worlds",
        "cheetah_run, video background (leaves)",
        "200 (100 to 300)",  # the last evaluation of two seeds
        "100: 3k 10k, 200: 7k never, 300: 10k never",
        "random policy 7.6, best constant action 4.1",
        "DreamerPro",
        "0.51 (0.40 to 0.60)",
        "swapped",
        "decomposed at env step 10,000",
        "a <b>",
        "task: walker_walk",
        "reacher_easy",  # without runs
        "598 (118)",  # Table 1, behind a video
        "0.50",  # CPU hours
        "2,048",  # MiB
        "xy010,00021841the run's250 (214 to 286)",  # an evaluation's row: 2 episodes of seed 1841
        "xy010,00027another33 (30 to 36)",
    ):
        assert words in reader.text, words
    assert re.search(r"Probability .*x and y.* ends above one of:", reader.text) and "1.00" in reader.text

    markdown = text.read_text()
    pictures = re.findall(r"\]\((.*?)\)", markdown)
    assert len(pictures) == 3 and all((text.parent / name).exists() for name in pictures)
    newest = np.asarray(Image.open(text.parent / pictures[1]).convert("L"))
    assert (newest == 200).all()
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_table_1_takes_the_mean_over_tasks_of_what_differs_in_task_and_seed_alone(tmp_path):
    jitter, learned = ["noise=video_background_camera_jitter", "model=x"], ["size=small", "train.updates=7"]
    made = [
        make_run(tmp_path / "c0", *jitter, "seed=0", returns=(0, 10, 20, 1000)),
        make_run(tmp_path / "c1", *jitter, "seed=1", returns=(0, 10, 40)),
        make_run(tmp_path / "w0", *jitter, "env.task=walker_walk", "seed=0", returns=(0, 10, 90)),
        make_run(tmp_path / "other", *jitter, *learned, returns=(0, 10, 500)),
        make_run(tmp_path / "elsewhere", *jitter, "env.task=finger_spin", returns=(0, 10, 700)),
        make_run(tmp_path / "sac", "noise=none", "model=tia", "policy=sac", returns=(0, 10, 60)),
    ]
    configs = {folder: run_dir.load(folder) for folder in made}
    clean, *shaking = table1.cells(configs)
    assert clean.returned is not None
    assert (clean.world, clean.returned.value, clean.published) == ("noiseless", 60, "480 (126)")
    ours = next(cell for cell in shaking if len(cell.seeds) == 2)
    assert ours.seeds == {"cheetah_run": 2, "walker_walk": 1}
    assert ours.env_step == 10_000 and ours.published == "99 (28)"
    assert ours.returned == ((30 + 90) / 2, (20 + 90) / 2, (40 + 90) / 2)
    assert [cell.returned and cell.returned.value for cell in shaking if cell is not ours] == [500]

    (made[2] / "metrics.jsonl").write_text('{"env_step": 7, "evaluate/return_mean": 1.0}\n')
    ours = next(cell for cell in table1.cells(configs) if len(cell.seeds) == 2)
    assert ours.returned is None, "its runs were never evaluated at the same env step"


def test_published_returns_stand_beside_the_same_world_alone(runs):
    words = [block.text for block in webpage.report(runs[3:], {}) if isinstance(block, webpage.Paragraph)]
    assert any("DreamerV3" in text for text in words), "without noise"
    shaking = make_run(runs[0].parent / "shaking", "noise=video_background_camera_jitter")
    words = [block.text for block in webpage.report([shaking], {}) if isinstance(block, webpage.Paragraph)]
    assert not any("Published" in text for text in words)


def test_the_command_writes_a_page_or_a_picture(runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "baselines.json").write_text(json.dumps(BASELINES))
    arguments = ["report.py", *map(str, runs[:3]), "--baselines", str(tmp_path / "baselines.json"), "--out"]
    for name, files in (("page.html", ["page.html", "page/report.md"]), ("curves.png", ["curves.png", "curves.json"])):
        monkeypatch.setattr("sys.argv", [*arguments, str(tmp_path / name)])
        report_command.command()
        assert capsys.readouterr().out.strip() == ", ".join(str(tmp_path / file) for file in files)
        assert all((tmp_path / file).stat().st_size for file in files)


def test_a_file_that_is_no_baseline_is_named(tmp_path):
    (tmp_path / "wrong.json").write_text('{"task": "cheetah_run"}')
    with pytest.raises(UserError, match=r"wrong.json is no file from the command baselines: 'random_mean'"):
        report_command._read(tmp_path / "wrong.json")
