"""A report of many runs in one file that opens offline: HTML with its pictures inside, or the same as Markdown.

A report is a list of blocks, and each block knows both forms.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from denoised_mdp.analysis import curves, statistics, table1
from denoised_mdp.analysis.factorization.report import HEADLINE, estimate_text
from denoised_mdp.config import Config
from denoised_mdp.runs import run_dir
from denoised_mdp.runs.logger import read_metrics

ANCHORS = Path(__file__).with_name("anchors.json")
PACKAGES = ("denoised-mdp", "jax", "flax", "optax", "numpy", "mujoco", "dm_control")
READING = (
    "Thin lines: one per seed. Thick lines: the interquartile mean over seeds (of fewer than four, the mean), with the "
    "95% interval of a stratified bootstrap over seeds. Runs are averaged only if they differ in nothing but the seed."
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #222 }
h1, h2, h3 { line-height: 1.2 } img { max-width: 100%; height: auto } figure { margin: 1rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 0.9rem }
th, td { padding: 0.25rem 0.6rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #888 } pre { overflow-x: auto; background: #f6f6f6; padding: 0.6rem; font-size: 0.8rem }
"""


class Block(Protocol):
    """A piece of a report."""

    def html(self) -> str:
        """Returns it as HTML."""
        ...

    def markdown(self, folder: Path) -> str:
        """Returns it as Markdown; writes its picture, if it has one, into `folder`."""
        ...


class Heading(NamedTuple):
    """A heading of a level from 1 on."""

    level: int
    text: str

    def html(self) -> str:
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"

    def markdown(self, folder: Path) -> str:
        return f"{'#' * self.level} {self.text}"


class Paragraph(NamedTuple):
    """Some sentences."""

    text: str

    def html(self) -> str:
        return f"<p>{html.escape(self.text)}</p>"

    def markdown(self, folder: Path) -> str:
        return self.text


class Table(NamedTuple):
    """A table; wider than the screen, it scrolls by itself."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'

    def markdown(self, folder: Path) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


class Picture(NamedTuple):
    """A picture with a caption, as the bytes of a PNG."""

    name: str
    caption: str
    png: bytes

    def html(self) -> str:
        source = base64.b64encode(self.png).decode()
        caption = html.escape(self.caption)
        picture = f'<img alt="{caption}" src="data:image/png;base64,{source}">'
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

    def markdown(self, folder: Path) -> str:
        (folder / f"{self.name}.png").write_bytes(self.png)
        return f"![{self.caption}]({self.name}.png)"


class Details(NamedTuple):
    """A text that is folded away."""

    title: str
    text: str

    def html(self) -> str:
        return f"<details><summary>{html.escape(self.title)}</summary><pre>{html.escape(self.text)}</pre></details>"

    def markdown(self, folder: Path) -> str:
        return f"{self.title}:\n\n```\n{self.text}\n```"


def write(path: Path, blocks: Sequence[Block], title: str) -> list[Path]:
    """Writes a report as HTML, and as Markdown with its pictures into a folder beside it; returns the two files."""
    body = "\n".join(block.html() for block in blocks)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    page = (
        f'<!doctype html><html lang="en"><head>{head}<title>{html.escape(title)}</title><style>{STYLE}</style></head>'
    )
    path.write_text(f"{page}<body>\n{body}\n</body></html>\n")
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    text = folder / "report.md"
    text.write_text("\n\n".join(block.markdown(folder) for block in blocks) + "\n")
    return [path, text]


def report(folders: Sequence[Path], baselines: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Returns the report of some runs, world by world.

    baselines: by task, the results of the command `baselines`.

    Raises:
        UserError: a folder holds no run, or no evaluation, or two runs are the same.
    """
    configs = {folder: run_dir.load(folder) for folder in folders}
    worlds: dict[str, list[Path]] = {}
    for folder, config in configs.items():
        worlds.setdefault(curves.world(config), []).append(folder)
    blocks: list[Block] = [Heading(1, "Denoised MDPs: report of runs")]
    blocks.append(Paragraph(f"{len(folders)} runs in {len(worlds)} worlds, every one shown. {READING}"))
    for i, (world, members) in enumerate(sorted(worlds.items())):
        of_world = {folder: configs[folder] for folder in members}
        blocks += _world(f"world{i}", world, of_world, baselines.get(next(iter(of_world.values())).env.task))
    blocks += [*_table1(configs), *_factorizations(configs), *_costs(configs), *_versions(), *_settings(configs)]
    return blocks


def _world(name: str, world: str, configs: Mapping[Path, Config], baselines: Mapping[str, Any] | None) -> list[Block]:
    figure, summary = curves.draw(list(configs), baselines)
    blocks: list[Block] = [Heading(2, world), Picture(f"{name}-curves", f"Evaluation returns, {world}.", _png(figure))]
    rows = []
    for method, found in summary["statistics"].items():
        reached = ", ".join(f"{at}: {_steps(steps)}" for at, steps in found.get("steps_to", {}).items())
        area = _interval(found["area"]) if "area" in found else ""
        rows.append([method, str(found["seeds"]), f"{found['env_step']:,}", _interval(found["final"]), area, reached])
    header = [
        "method",
        "seeds",
        "env steps",
        "last evaluation",
        "mean over the curve",
        "env steps to a return, per seed",
    ]
    blocks.append(Table(header, rows))
    blocks += _improvement(summary)
    if baselines is not None:
        blocks.append(
            Paragraph(
                f"Without learning: random policy {baselines['random_mean']:.1f}, best constant action "
                f"{baselines['best_constant_mean']:.1f}."
            )
        )
    blocks += [*_evaluations(configs), *_anchors(next(iter(configs.values()))), *_pictures(name, configs)]
    return blocks


def _improvement(summary: Mapping[str, Any]) -> list[Block]:
    """Compares every method with the first one, by the last evaluations."""
    finals = {
        method: [np.array([run["return"] for run in runs.values()])] for method, runs in summary["methods"].items()
    }
    if len(finals) < 2:
        return []
    first, *others = finals
    rng = np.random.default_rng(0)
    rows = []
    for other in others:
        beats = statistics.estimate(statistics.probability_of_improvement, finals[first], finals[other], rng=rng)
        rows.append([other, _interval(beats._asdict(), 2)])
    return [
        Paragraph(f"Probability that a run of “{first}” ends above one of:"),
        Table(["method", "probability"], rows),
    ]


def _evaluations(configs: Mapping[Path, Config]) -> list[Block]:
    """Returns what the command evaluate measured of these runs, run by run."""
    rows = []
    for folder, method in curves.methods(configs).items():
        for path in sorted(folder.glob(run_dir.EVALUATION.format(env_step="*", seed="*"))):
            found = json.loads(path.read_text())
            noise = "the run's" if found["noise"] == configs[folder].noise.model_dump() else "another"
            about = [f"{found['env_step']:,}", str(len(found["returns"])), str(found["seed"]), noise]
            returned = {"value": found["return_mean"], "low": found["return_low"], "high": found["return_high"]}
            rows.append([method, folder.name, *about, _interval(returned)])
    if not rows:
        return []
    header = ["method", "run", "env step", "held-out episodes", "their seed", "noise", "return"]
    explained = "What the command evaluate measured; the intervals are over the episodes of one agent:"
    return [Paragraph(explained), Table(header, rows)]


def _anchors(config: Config) -> list[Block]:
    """Returns published returns in a comparable world, if there are any."""
    anchors = json.loads(ANCHORS.read_text())
    noise = {name for name, there in config.noise if there is True}
    kind = {frozenset({"video_background"}): "video", frozenset(): "clean"}.get(frozenset(noise))
    if config.env.name != "dmc" or kind is None or config.env.task not in anchors[kind]["returns"]:
        return []
    rows = [[method, *returns] for method, returns in anchors[kind]["returns"][config.env.task].items()]
    return [
        Paragraph(f"Published, differs in: {anchors[kind]['differs_in']}. Source: {anchors[kind]['source']}."),
        Table(["method", "100,000 env steps", "1,000,000 env steps"], rows),
    ]


def _pictures(name: str, configs: Mapping[Path, Config]) -> list[Block]:
    """Returns the newest decomposition of the first run of each method."""
    blocks: list[Block] = []
    seen: set[str] = set()
    for i, (folder, method) in enumerate(curves.methods(configs).items()):
        pictures = sorted((folder / "videos").glob("*.png"))
        if pictures and method not in seen:
            seen.add(method)
            caption = f"{method}: {folder.name}, decomposed at env step {int(pictures[-1].stem):,}."
            blocks.append(Picture(f"{name}-decomposition{i}", caption, _small(Image.open(pictures[-1]))))
    return blocks


def _table1(configs: Mapping[Path, Config]) -> list[Block]:
    cells = table1.cells(configs)
    if not cells:
        return []
    rows = []
    for cell in cells:
        seeds = ", ".join(f"{task} {count}" for task, count in cell.seeds.items())
        missing = ", ".join(task for task in table1.TASKS if task not in cell.seeds) or "none"
        ours = "evaluated at different env steps"
        if cell.returned is not None:
            ours = f"{_interval(cell.returned._asdict())} at {cell.env_step:,}"
        rows.append([cell.world, cell.method, seeds, missing, ours, cell.published or "not in the table"])
    header = ["world", "method", "runs", "tasks without runs", "this code, at env steps", "the paper, at 1,000,000"]
    published = json.loads(table1.PUBLISHED.read_text())
    return [
        Heading(2, "Table 1 of the paper"),
        Paragraph(
            "Mean evaluation returns over the tasks: of the runs here, with the 95% interval of a stratified bootstrap "
            "over seeds, and of the paper, with the standard deviation. The paper's differ in: "
            f"{published['differs_in']}."
        ),
        Table(header, rows),
    ]


def _factorizations(configs: Mapping[Path, Config]) -> list[Block]:
    rows = []
    for folder in configs:
        if (path := folder / "factorization.json").exists():
            found = json.loads(path.read_text())
            alarms = "; ".join(alarm["name"] for alarm in found["alarms"]) or "none"
            rows.append([folder.name, *(estimate_text(found["headline"][name]) for name in HEADLINE), alarms])
    if not rows:
        return []
    return [Heading(2, "What each part knows"), Table(["run", *HEADLINE.values(), "alarms"], rows)]


def _costs(configs: Mapping[Path, Config]) -> list[Block]:
    rows = []
    for folder in configs:
        lines = read_metrics(folder)
        last = {name: value for line in lines for name, value in line.items() if value is not None}
        speeds = [line["speed/env_steps_per_second"] for line in lines if line.get("speed/env_steps_per_second")]
        speed = float(np.median(speeds)) if speeds else 0.0
        steps = last.get("env_step", 0)
        hours = f"{steps / speed / 3600:.2f}" if speed else ""
        cpu_seconds = sum(line.get("speed/cpu_seconds") or 0.0 for line in lines)
        cpu_hours = f"{cpu_seconds / 3600:.2f}" if cpu_seconds else ""
        memory = max((line.get("speed/memory_mib") or 0.0 for line in lines), default=0.0)
        row = [f"{steps:,}", f"{last.get('train/updates', 0):,}", f"{speed:.0f}", hours, cpu_hours]
        rows.append([folder.name, *row, f"{memory:,.0f}" if memory else ""])
    header = [
        "run",
        "env steps",
        "updates",
        "env steps per second",
        "hours, by that speed",
        "CPU hours of its process",
        "memory, MiB",
    ]
    return [Heading(2, "What it cost"), Table(header, rows)]


def _versions() -> list[Block]:
    rows = []
    for package in PACKAGES:
        try:
            rows.append([package, version(package)])
        except PackageNotFoundError:
            rows.append([package, "not installed"])
    return [Heading(2, "Versions, of this report's environment"), Table(["package", "version"], rows)]


def _settings(configs: Mapping[Path, Config]) -> list[Block]:
    blocks: list[Block] = [Heading(2, "Settings")]
    seen: set[str] = set()
    for folder, method in curves.methods(configs).items():
        label = f"{curves.world(configs[folder])}: {method}"
        if label not in seen:
            seen.add(label)
            blocks.append(Details(f"{label} ({folder.name}/{run_dir.CONFIG})", (folder / run_dir.CONFIG).read_text()))
    return blocks


def _png(figure: Figure) -> bytes:
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return _small(Image.open(drawn))


def _small(picture: Image.Image) -> bytes:
    """Returns a PNG of 128 colours: a quarter of the size, and hardly another picture."""
    png = BytesIO()
    picture.convert("RGB").quantize(128).save(png, "PNG", optimize=True)
    return png.getvalue()


def _interval(estimate: Mapping[str, float], digits: int = 0) -> str:
    value, low, high = (f"{estimate[name]:.{digits}f}" for name in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"  # of one seed there is no interval


def _steps(steps: Sequence[float | None]) -> str:
    return " ".join("never" if step is None else f"{step / 1000:.0f}k" for step in steps)
