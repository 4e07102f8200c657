"""What docs/embedding.md says: its files, in a folder of another project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from denoised_mdp.config.compose import compose, groups
from denoised_mdp.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FILES = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The folder of another project, with the files of both pages."""
    for page in ("custom_environment.md", "embedding.md"):
        for name, text in FILES.findall((ROOT / "docs" / page).read_text()):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_take_choices_of_another_folder(project):
    run("-m", "denoised_mdp", "train", "--config-dir", "conf", "experiment=short", "run_dir=runs/short")
    look = ["run_dir=runs/short", "episodes=1", "env.constructor=dot.py:make"]
    assert "1 episodes at env step 600" in run("-m", "denoised_mdp", "evaluate", *look)
    Path("runs/short").rename("runs/python")
    assert "runs/python is finished" in run("from_python.py")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="@hydra.main of Hydra 1.3 does not start on Python 3.14")
def test_an_application_of_its_own_trains_and_its_run_goes_on_with_the_command(project):
    name = "dot-none-xy-debug-seed0-experiment_short"
    assert f"of this project alone: runs/{name}\n" in run("application.py", "experiment=short")
    told = run("-m", "denoised_mdp", "train", "--config-dir", "conf", "experiment=short")
    assert "is finished" in told and name in told


def test_a_folder_and_a_package_add_choices(project, monkeypatch):
    (project / "mine" / "conf").mkdir(parents=True)
    for folder in ("mine", "mine/conf"):
        (project / folder / "__init__.py").touch()
    (project / "mine" / "conf" / "noise").mkdir()
    (project / "mine" / "conf" / "noise" / "shaky.yaml").write_text("defaults: [none, _self_]\ncamera_jitter: true\n")
    monkeypatch.syspath_prepend(project)
    path = f"hydra.searchpath=[file://{project}/conf,pkg://mine.conf]"
    assert {"dot", "dmc"} <= set(groups([path])["env"]) and "shaky" in groups([path])["noise"]
    config = compose([path, "env=dot", "noise=shaky"])
    assert (config.env.task, config.noise.camera_jitter, config.run_dir) == (
        "dot",
        True,
        "runs/dot-shaky-xy-small-seed0",
    )


@pytest.mark.parametrize("place", ["file:///nowhere", "pkg://nothing.here", "nowhere"])
def test_a_folder_that_is_not_there_is_one_line(place):
    with pytest.raises(UserError, match=rf"{place} is not a folder of configurations"):
        compose([f"hydra.searchpath=[{place}]"])
