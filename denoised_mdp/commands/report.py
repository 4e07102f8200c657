"""Draws learning curves of several runs."""

from __future__ import annotations

import argparse
import json

from denoised_mdp.errors import PICTURES, UserError, expanded, output


def command() -> None:
    """Draws the picture and writes the final numbers beside it, as JSON."""
    parser = argparse.ArgumentParser(description="Draws the evaluation returns of runs, grouped by model and policy.")
    parser.add_argument("runs", type=expanded, nargs="+", help="folders of runs")
    parser.add_argument(
        "--out", type=output(*PICTURES), required=True, help="the PNG to write; its numbers go to a .json beside it"
    )
    parser.add_argument("--baselines", type=expanded, help="a file from the command baselines")
    options = parser.parse_args()

    from denoised_mdp.analysis import curves

    try:
        baselines = json.loads(options.baselines.read_text()) if options.baselines else None
        figure, summary = curves.draw(options.runs, baselines)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.out, dpi=120)
    except (UserError, OSError, json.JSONDecodeError) as error:
        parser.exit(2, f"error: {error}\n")
    numbers = options.out.with_suffix(".json")
    numbers.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{options.out}, {numbers}")
