"""Checks that two runs are the same, byte for byte except for speed: same_run.py RUN RUN [--finished-later]"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

CHECKSUMS = "checksums.json"


def main() -> None:
    """Prints the differences, and ends with exit code 1 if there are any."""
    parser = argparse.ArgumentParser(description="Compares parameters, replay, progress and metrics of two runs.")
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument(
        "--finished-later", action="store_true", help="the second was stopped and resumed; ignore its extra evaluations"
    )
    options = parser.parse_args()
    first, second = (sorted(_folders(run)) for run in options.runs)
    problems = [f"{len(first)} and {len(second)} runs"] if len(first) != len(second) else []
    for a, b in zip(first, second, strict=False):
        problems += differences(a, b, finished_later=options.finished_later)
    print(f"{options.runs[0].name} and {options.runs[1].name}: {'; '.join(problems) if problems else 'the same'}")
    raise SystemExit(bool(problems))


def _folders(run: Path) -> Iterator[Path]:
    """Yields the folder of the run, or the folders of its seeds."""
    yield from [path.parent for path in run.glob("**/metrics.jsonl")]


def differences(first: Path, second: Path, *, finished_later: bool) -> list[str]:
    """Returns the differences between two runs; an empty list if they are the same."""
    newest = [max((run / "checkpoints").glob("[0-9]*"), key=lambda path: path.name) for run in (first, second)]
    if newest[0].name != newest[1].name:
        return [f"checkpoints of env steps {int(newest[0].name)} and {int(newest[1].name)}"]
    checksums = [(path / CHECKSUMS).exists() for path in newest]
    skipped = () if all(checksums) else (CHECKSUMS,)  # a version without them made one of the runs
    files = [path for path in sorted(newest[0].iterdir()) if path.name not in skipped]
    pairs = {f"checkpoint/{path.name}": (path, newest[1] / path.name) for path in files}
    pairs |= {f"replay/{path.name}": (path, second / "replay" / path.name) for path in (first / "replay").iterdir()}
    problems = [
        name for name, (a, b) in pairs.items() if not b.is_file() or _content(a, skipped) != _content(b, skipped)
    ]
    if (metrics := _metrics(first, finished_later)) != (other := _metrics(second, finished_later)):
        wrong = next((i for i, (a, b) in enumerate(zip(metrics, other, strict=False)) if a != b), "the end")
        problems.append(f"metrics.jsonl from its line {wrong} on")
    return problems


def _content(file: Path, skipped: tuple[str, ...]) -> object:
    """Returns the bytes of a file; of progress.json without checksums if one run has none."""
    if not skipped or file.name != "progress.json":
        return file.read_bytes()
    progress = json.loads(file.read_bytes())
    progress["replay"].pop("checksums", None)
    return progress


def _metrics(run: Path, finished_later: bool) -> list[dict[str, float]]:
    """Returns the lines without speed; if one run was stopped in between, also without evaluations."""
    skipped = ("speed/", "evaluate/") if finished_later else ("speed/",)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.strip()]
    kept = [{name: value for name, value in line.items() if not name.startswith(skipped)} for line in lines]
    return [line for line in kept if len(line) > 1]


if __name__ == "__main__":
    main()
