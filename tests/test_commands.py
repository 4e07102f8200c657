"""The command `denoised-mdp`: what it lists, and that it is the scripts by another name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import denoised_mdp
from denoised_mdp import __main__
from denoised_mdp.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
ENV = os.environ | {"PYTHONPATH": str(ROOT)}


def test_every_command_is_a_script_of_three_lines():
    files = {path.stem for path in (ROOT / "denoised_mdp" / "commands").glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)
    for name in COMMANDS:
        _, *code = (line for line in (ROOT / "scripts" / f"{name}.py").read_text().splitlines() if line)
        imported = f"from denoised_mdp.commands.{name} import command"
        assert code == [imported, 'if __name__ == "__main__":', "    command()"]


def test_help_lists_the_commands_from_any_folder(tmp_path):
    command = [sys.executable, "-m", "denoised_mdp", "--help"]
    told = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True).stdout
    for name, purpose in COMMANDS.items():
        assert re.search(rf"^  {name} +{purpose}$", told, re.MULTILINE)


def test_no_command_is_the_help_and_a_wrong_one_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["denoised-mdp"])
    __main__.main()
    assert "usage: denoised-mdp COMMAND" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["denoised-mdp", "trian"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 2
    error = "error: trian: there is no such command; did you mean train"
    assert re.fullmatch(rf"{error}[^\n]*\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["train", "evaluate", "report"])  # one of each kind of command line
def test_help_of_a_command_is_its_script_s(name, tmp_path):
    script = ROOT / "scripts" / f"{name}.py"
    ours, theirs = (
        subprocess.run([sys.executable, *program, "--help"], cwd=tmp_path, env=ENV, capture_output=True, check=True)
        for program in (["-m", "denoised_mdp", name], [script])
    )
    program = script.name if name == "report" else f"python {script}"
    ours, theirs = ours.stdout.decode(), theirs.stdout.decode()
    assert program in theirs and f"denoised-mdp {name}" in ours
    assert ours.replace(f"denoised-mdp {name}", "PROGRAM").split() == theirs.replace(program, "PROGRAM").split()


def test_the_version_is_that_of_the_newest_changes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["denoised-mdp", "--version"])
    __main__.main()
    assert capsys.readouterr().out == f"denoised-mdp {denoised_mdp.__version__}\n"
    released = re.findall(r"^## ([\d.]+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == denoised_mdp.__version__
