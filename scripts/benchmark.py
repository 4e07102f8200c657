"""Measures the cost of training's parts on this machine: python scripts/benchmark.py update size=paper"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from denoised_mdp.errors import UserError, at_least, output

PARTS = ("update", "convolutions", "env", "replay", "acting", "pipeline")


def main() -> None:
    """Prints a table for each part, and writes the numbers as JSON on request."""
    parser = argparse.ArgumentParser(
        description="Measures the cost of training's parts on this machine, and its load.",
        epilog="example: benchmark.py update acting size=paper precision=bfloat16 --out benchmark.json",
    )
    parser.add_argument("parts", nargs="+", metavar="PART", help=f"{' '.join(PARTS)}, or all; and settings, key=value")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="of each measurement (default 5)")
    parser.add_argument("--chunk", type=at_least(1), default=1, help="updates per call of train_chunk (default 1)")
    parser.add_argument(
        "--actions", type=at_least(1), default=6, help="size of the action, except in pipeline (default 6)"
    )
    parser.add_argument("--rows", type=at_least(1000), default=20_000, help="steps in the replay (default 20,000)")
    parser.add_argument("--steps", type=at_least(1), default=200, help="agent steps in env (default 200)")
    parser.add_argument("--blocks", type=at_least(1), default=2, help="of updates in pipeline (default 2)")
    parser.add_argument("--out", type=output(), help="a JSON file to write")
    options = parser.parse_args()
    try:
        measure(options)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


def measure(options: argparse.Namespace) -> None:
    """Measures the requested parts, and prints each one at once.

    Raises:
        UserError: there is no such part, or a setting is wrong.
    """
    settings = [text for text in options.parts if "=" in text]
    parts = [text for text in options.parts if "=" not in text] or ["all"]
    for name in parts:
        if name not in (*PARTS, "all"):
            raise UserError(f"{name}: there is no such part, only {', '.join(PARTS)} and all")
    from denoised_mdp.config.compose import compose_seeds

    configs = compose_seeds(settings)
    config = configs[0]  # only the update and the pipeline use `seeds`

    from benchmarks import acting, convolutions, env, machine, pipeline, replay, table, update

    agent = {"action_size": options.actions, "repeats": options.repeats}
    measures: dict[str, Callable[[], list[table.Row]]] = {
        "env": lambda: env.measure(config, steps=options.steps),  # first, because it chooses the OpenGL backend
        "update": lambda: (
            update.measure(config, chunk=options.chunk, seeds=len(configs), **agent)
            + update.transfer(config, chunk=options.chunk, **agent)
        ),
        "convolutions": lambda: convolutions.measure(config, repeats=options.repeats),
        "acting": lambda: acting.measure(config, **agent),
        "replay": lambda: replay.measure(config, rows=options.rows, **agent),
        "pipeline": lambda: pipeline.measure(configs, blocks=options.blocks),
    }
    results = {"machine": machine.describe()}
    print(table.render("machine", results["machine"]), flush=True)
    for name, function in measures.items():
        if name in parts or "all" in parts:
            results[name] = function()
            print("\n" + table.render(f"{name} {' '.join(settings)}", results[name]), flush=True)
            if options.out is not None:  # after each part, as the next one may take long
                report = {part: table.as_json(rows) for part, rows in results.items()}
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(report | {"settings": config.model_dump()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
