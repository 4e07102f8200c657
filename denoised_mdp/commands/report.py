"""Reports several runs: their learning curves as a picture, or everything about them as one page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denoised_mdp.errors import PICTURES, UserError, expanded, output


def command() -> None:
    """Draws the picture and writes the final numbers beside it, as JSON; or writes the page."""
    parser = argparse.ArgumentParser(
        description="Draws the evaluation returns of runs, or writes a page with everything about them."
    )
    parser.add_argument("runs", type=expanded, nargs="+", help="folders of runs")
    parser.add_argument(
        "--out",
        type=output(*PICTURES, ".html"),
        required=True,
        help="a picture of the curves, with its numbers in a .json beside it; or a page (.html), with the same as "
        "Markdown in a folder beside it",
    )
    parser.add_argument("--baselines", type=expanded, nargs="+", default=[], help="files from the command baselines")
    options = parser.parse_args()

    try:
        baselines = {found["task"]: found for found in map(_read, options.baselines)}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write = _write_page if options.out.suffix.lower() == ".html" else _write_picture
        print(*write(options.runs, baselines, options.out), sep=", ")
    except (UserError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return found | {"task": found["task"], "random_mean": float(found["random_mean"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--baselines {path} is no file from the command baselines: {error}") from None


def _write_picture(runs: list[Path], baselines: Mapping[str, Any], out: Path) -> list[Path]:
    from denoised_mdp.analysis import curves

    if len(baselines) > 1:
        raise UserError("--baselines: a picture shows one world, and takes one file")
    figure, summary = curves.draw(runs, next(iter(baselines.values()), None))
    figure.savefig(out, dpi=120)
    numbers = out.with_suffix(".json")
    numbers.write_text(json.dumps(summary, indent=1) + "\n")
    return [out, numbers]


def _write_page(runs: list[Path], baselines: Mapping[str, Any], out: Path) -> list[Path]:
    from denoised_mdp.analysis import webpage

    return webpage.write(out, webpage.report(runs, baselines), "Denoised MDPs: report of runs")
