"""The factorizations of several runs side by side."""

from __future__ import annotations

import argparse
import json

from denoised_mdp.errors import PICTURES, UserError, expanded, output


def command() -> None:
    """Draws the picture, and writes its numbers beside it as a Markdown table."""
    parser = argparse.ArgumentParser(
        description="Draws the results of the command factorization for several runs, a matrix for each model. All "
        "must use the same recordings (data=FILE)."
    )
    parser.add_argument("runs", type=expanded, nargs="+", help="folders with a factorization.json")
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        required=True,
        help="the PNG to write; a table goes to a .md beside it, all numbers to a .json",
    )
    options = parser.parse_args()

    from denoised_mdp.analysis.factorization import comparison

    try:
        models = comparison.read(options.runs)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        comparison.draw(models).savefig(options.out, dpi=120)
        table = options.out.with_suffix(".md")
        table.write_text(comparison.markdown(models))
        numbers = options.out.with_suffix(".json")
        numbers.write_text(json.dumps(comparison.summary(models), indent=1) + "\n")
    except (UserError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{options.out}, {table}, {numbers}")
