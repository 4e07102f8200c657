"""Compares our numbers with the reference's."""

from __future__ import annotations

import argparse
import os
import sys

from denoised_mdp.errors import UserError, expanded

FAILED, USER_ERROR = 1, 2  # exit codes


def command() -> None:
    """Prints the largest error against the reference, for each file and quantity."""
    parser = argparse.ArgumentParser(
        description="Compares the numbers of this code with those of the reference, from the same weights, inputs and "
        "noise: values to 1e-5, gradients to 1e-4, relative to the largest number of an array.",
        epilog="Exit code 1: an array differs, is missing from a file, or is not checked; 2: a file cannot be used.",
    )
    parser.add_argument("files", type=expanded, nargs="+", help="golden files (tests/golden/README.md describes them)")
    parser.add_argument("--verbose", action="store_true", help="a line for every array")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # where the reference ran; before jax is imported

    from denoised_mdp.reference import parity

    code = 0
    for path in options.files:
        try:
            report = parity.check(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = USER_ERROR
            continue
        print(f"{path}\n{parity.table(report, every_array=options.verbose)}\n")
        if not report.agrees:
            code = code or FAILED
    if len(options.files) > 1:
        print("every file agrees" if code == 0 else "NOT every file agrees")
    sys.exit(code)
