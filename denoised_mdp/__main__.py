"""The command `denoised-mdp`, also as `python -m denoised_mdp`."""

from __future__ import annotations

import importlib
import sys

import denoised_mdp
from denoised_mdp.commands import COMMANDS
from denoised_mdp.errors import did_you_mean

PROGRAM = "denoised-mdp"
USER_ERROR = 2  # exit code


def main() -> None:
    """Runs the command in the first argument, with the other arguments."""
    first, *rest = sys.argv[1:] or ["--help"]
    if first in ("-h", "--help"):
        print(_help())
    elif first == "--version":
        print(f"{PROGRAM} {denoised_mdp.__version__}")
    elif first not in COMMANDS:
        print(f"error: {first}: there is no such command{did_you_mean(first, COMMANDS)}; see --help", file=sys.stderr)
        sys.exit(USER_ERROR)
    else:
        sys.argv = [f"{PROGRAM} {first}", *rest]
        importlib.import_module(f"denoised_mdp.commands.{first}").command()


def _help() -> str:
    lines = ["Denoised MDPs: world models that separate signal from noise.", "", f"usage: {PROGRAM} COMMAND ...", ""]
    lines += [f"  {name:<18}{purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [*lines, "", f"{PROGRAM} COMMAND --help lists the options of a command, --version prints the release."]
    )


if __name__ == "__main__":
    main()
