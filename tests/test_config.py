"""The settings and the command line: what is composed, and that every mistake is one clear line."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from test_envs_video import write_images

from denoised_mdp import cli
from denoised_mdp.config import compose, schema
from denoised_mdp.config.schema import CHANGEABLE, Config, DenoisedModel, Part, Size
from denoised_mdp.errors import UserError, did_you_mean, nearest, user_errors
from denoised_mdp.runs import run_dir

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
from denoised_mdp import cli
from denoised_mdp.config import compose
from denoised_mdp.errors import UserError

def check(config):
    if config.env.task == "unknown_task":
        raise ValueError("there is no such task\\nonly others")

def main(config):
    if config.env.task == "refused_late":
        raise UserError("refused late")
    if config.env.task == "crash":
        raise ValueError("a bug")
    print(config.run_dir, config.seed, config.model.beta_y)

if __name__ == "__main__":
    cli.train(main, check=check)
"""


@pytest.fixture(scope="module")
def default() -> Config:
    return compose.compose([])


@pytest.fixture
def script(tmp_path):
    """Runs a training script in an empty folder, and looks at what it leaves there."""
    file, folder = tmp_path / "train.py", tmp_path / "elsewhere"
    file.write_text(SCRIPT)
    folder.mkdir()

    def run(*arguments: str, **environment: str):
        env = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(file), *arguments]
        done = subprocess.run(command, cwd=folder, env=env | environment, capture_output=True, text=True, timeout=120)
        return done, sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))

    return run


# What is composed


def test_defaults(default):
    assert (default.env.task, default.seed, default.size.name, default.policy.name) == (
        "cheetah_run", 0, "small", "dynamics",
    )  # fmt: skip
    assert not default.noise.video_background
    assert default.model.y.state > 0 and default.model.z == Part(belief=0, state=0)


@pytest.mark.parametrize("size", ["paper", "small", "debug"])
@pytest.mark.parametrize("model", ["x", "xy", "xyz", "tia"])
def test_every_size_has_every_model(size, model):
    made = compose.compose([f"size={size}", f"model={model}", "noise=video_background"])
    present = [part for part in "xyz" if getattr(made.model, part).state]
    assert "".join(present) == {"tia": "xy"}.get(model, model) and made.model.name == model
    assert made.noise.video_background


@pytest.mark.parametrize("size", ["paper", "small", "debug"])
@pytest.mark.parametrize("policy", ["dynamics", "sac"])
def test_every_size_has_every_policy(size, policy):
    made = compose.compose([f"size={size}", f"policy={policy}"])
    assert made.policy.name == policy
    assert made.size.policy[policy].items() <= made.policy.model_dump().items()


def test_paper_is_the_papers():
    """Table 5 and the hyperparameters of Sec. B.1.2, B.1.3."""
    xy, x, xyz = (compose.compose(["size=paper", f"model={name}"]) for name in ("xy", "x", "xyz"))
    assert xy.model.x == xy.model.y == Part(belief=120, state=20)
    assert x.model.x == Part(belief=220, state=33)
    assert xyz.model.y == xyz.model.z == Part(belief=70, state=10)
    model, policy, train = xy.model, xy.policy, xy.train
    assert isinstance(model, DenoisedModel)
    assert (model.alpha, model.beta_x, model.beta_y, model.beta_z) == (1, 1, 0.25, 0.25)
    assert (model.free_nats_x, model.free_nats_y, model.free_nats_z) == (3, 0, 0)
    assert (model.learning_rate, model.adam_epsilon, model.clip_norm) == (6e-4, 1e-7, 100)
    assert (model.encoder, model.decoder, model.embedding) == ("conv", "conv", 1024)
    assert (model.reward_widths, policy.actor_widths, policy.critic_widths) == ([400] * 2, [400] * 4, [400] * 3)
    assert policy.name == "dynamics"
    assert (policy.actor_learning_rate, policy.critic_learning_rate, policy.start_every) == (8e-5, 8e-5, 1)
    assert (policy.horizon, policy.lambda_, policy.discount, policy.exploration_noise) == (15, 0.95, 0.99, 0.3)
    assert (train.env_steps, train.prefill, train.every, train.updates) == (1_000_000, 5000, 1000, 100)
    assert (train.batch_size, train.batch_length, xy.env.action_repeat) == (50, 50, 2)
    assert (xy.evaluate.every, xy.evaluate.episodes, xy.evaluate.video_every) == (10_000, 10, 20_000)


def test_the_four_variants_and_parts_of_noise_by_themselves():
    def parts(*overrides: str) -> tuple[bool, bool, bool]:
        noise = compose.compose(overrides).noise
        return noise.video_background, noise.noisy_sensor, noise.camera_jitter

    assert parts("noise=none") == (False, False, False)
    assert parts("noise=video_background", "noise.source=leaves") == (True, False, False)
    assert parts("noise=video_background_noisy_sensor") == (True, True, False)
    assert parts("noise=video_background_camera_jitter") == (True, False, True)
    assert parts("noise.camera_jitter=true") == (False, False, True)


def test_beta_reaches_y_and_z_unless_they_are_given():
    made = compose.compose(["model=xyz", "model.beta=0.125", "model.beta_z=0.5"]).model
    assert isinstance(made, DenoisedModel)
    assert (made.beta_x, made.beta_y, made.beta_z) == (1, 0.125, 0.5)


def test_widths_can_be_overridden_and_y_switched_off():
    made = compose.compose(["model.x.belief=48", "model.y.belief=0", "model.y.state=0"]).model
    assert (made.x.belief, made.y) == (48, Part(belief=0, state=0))


def test_experiment_yields_to_the_command_line():
    plain = compose.compose(["experiment=quickstart"])
    assert plain.noise.video_background and plain.size.name == "small"
    other = compose.compose(["experiment=quickstart", "size=debug", "noise=none", "train.env_steps=7e3"])
    assert (other.size.name, other.noise.video_background, other.train.env_steps) == ("debug", False, 7000)


def test_a_folder_may_be_named_like_a_number():
    assert compose.compose(["run_dir=2026"]).run_dir == "2026"


# Names of runs


def test_run_names():
    def name(*overrides: str) -> str:
        return compose.compose(overrides).run_dir

    assert name() == name("seed=0", "noise=none", "size=small") == "runs/cheetah_run-none-xy-small-seed0"
    assert name("logger.wandb=offline", "train.env_steps=2e6") == name()  # the same run, longer
    assert name("env.task=walker_walk", "model=x", "seed=3") == "runs/walker_walk-none-x-small-seed3"
    assert name("policy=sac", "policy.tau=0.01") == "runs/cheetah_run-none-xy-small-seed0-policy_sac-policy.tau_0.01"
    assert name("model.beta=0.5", "model.alpha=2") == name("model.alpha=2", "model.beta=0.5")
    assert name("model.beta=0.5") == "runs/cheetah_run-none-xy-small-seed0-model.beta_0.5"
    odd = [name("noise.source=/a/b"), name("noise.source=/a_b"), name("noise.source='/a b'")]
    assert len(set(odd)) == 3
    assert all(re.fullmatch(r"runs/[A-Za-z0-9._-]+", path) and len(path) < 130 for path in odd)


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.bta=1"], r"model.bta=1: there is no such setting; did you mean model.beta\b"),
        (["beta=1"], r"did you mean model.beta\b"),
        (["nosie=none"], "nosie=none: there is no such setting; did you mean noise"),
        (["noise=vidoe"], "noise=vidoe: there is no such choice, only video_background, .*, none"),
        (["size=null"], "size=None: there is no such choice"),
        (["experiment=quick"], r"there is no such choice, only quickstart, .* and \d+ more in configs/experiment$"),
        (["model.beta=3"], "model.beta=3: should be less than or equal to 1$"),
        (["seed=-1"], "seed=-1: should be greater than or equal to 0"),
        (["seed=abc"], "seed=abc: should be a valid integer"),
        (["seed=1.5"], "seed=1.5: should be a valid integer"),
        (["seed=true"], "seed=True: should be a valid integer"),
        (["model.continue_head=3"], "model.continue_head=3: should be a valid boolean"),
        (["model.alpha=nan"], "model.alpha=nan: should be a finite number"),
        (["model.x=4"], "model.x=4: is a section, with settings such as model.x.belief, model.x.state"),
        (["model.x={belief:4,stat:2}"], r"model\.x\.stat: there is no such setting; did you mean model\.x\.state"),
        (["run_dir="], "run_dir=: should have at least 1 character"),
        (["env.task="], "env.task=: should have at least 1 character"),
        (["render.backend=gl"], "render.backend=gl: should be 'auto', 'egl', 'osmesa' or 'ray'"),
        (["+model.beta=1"], "settings can be changed, not added or removed; write model.beta="),
        (["++experiment=quickstart"], "not added or removed; write experiment="),
        (["~model.beta"], "not added or removed"),
        (["model.beta"], "cannot read 'model.beta': write a setting as key=value; did you mean model.beta="),
        (["model.beta=[1"], "cannot read 'model.beta=\\[1'"),
        (["model.beta=${nowhere}"], "nowhere"),
        (["hydra/launcher=nowhere"], "nowhere"),
        (["size=paper", "model.x.state=0"], "model.x.belief=120 model.x.state=0: both must be at least 1"),
        (["size=paper", "model.y.state=0"], "model.y.belief=120 model.y.state=0: both must be 0"),
        (["model.states=categorical", "model.x.state=20"], "model.x.state=20: must be a multiple of model.classes=16"),
        (["model.beta_x=0.5", "model.beta_free_nats_x=0.6"], "model.beta_free_nats_x=0.6: must not exceed"),
        (["train.prefill=1e6"], "train.prefill=1000000: must be below train.env_steps"),
        (["train.batch_length=502"], "train.batch_length=502: must not exceed an episode, 501 steps"),
        (["train.batch_length=1"], "train.batch_length=1: should be greater than or equal to 2"),
        (["policy.horizon=1"], "policy.horizon=1: should be greater than or equal to 2"),
        (["policy=sca"], "policy=sca: there is no such choice, only sac, dynamics, sac_walker"),
        (["policy=sac", "policy.horizon=3"], "^policy.horizon=3: is not a setting of policy=sac$"),
        (["policy.tau=0.1"], "^policy.tau=0.1: is not a setting of policy=dynamics$"),
        (["policy=sac", "policy.tua=0.1"], r"policy.tua=0.1: there is no such setting; did you mean policy.tau\b"),
        (["policy=sac", "policy.tau=0"], "policy.tau=0: should be greater than 0$"),
        (["policy=sac", "policy.clip_norm=0"], "policy.clip_norm=0: should be greater than 0$"),
        (["policy=sac", "policy.target_entropy=1"], "policy.target_entropy=1: should be less than or equal to 0.69$"),
        (["policy.clip_norm=null"], "policy.clip_norm=None: should be a valid number"),
        (["policy.name=ppo"], "^policy.name=ppo: should be one of 'dynamics', 'sac'$"),
        (["policy.name=sac"], "policy.tau: .* policy=sac sets it; .*horizon=15: is not a setting of policy=sac"),
        (["size=paper", "policy.start_every=2501"], "policy.start_every=2501: must not exceed 2500, the states"),
        (["env.action_repeat=4", "train.every=3"], "train.every=3: must be at least env.action_repeat=4"),
        (["size=debug", "train.envs=4"], "train.envs=4: their first episodes end at env step 4000, after .*=3000"),
        (["size=paper", "replay.capacity=49"], "replay.capacity=49: must be at least train.batch_length=50"),
    ],
)
def test_mistakes_are_one_clear_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        compose.compose(overrides)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_told_at_once():
    with pytest.raises(UserError, match=r"model\.alpha=0: .*; policy\.horizon=0: "):
        compose.compose(["model.alpha=0", "policy.horizon=0"])


def test_limits_themselves_are_allowed():
    made = compose.compose(
        [
            "size=plain",
            "train.batch_length=501",
            "train.batch_size=2",
            "policy.start_every=1002",
            "policy.horizon=2",
            "model.beta=1",
        ]
    )
    assert made.train.batch_length == 501
    with pytest.raises(UserError, match=r"train\.prefill"):  # it delays the updates even where nothing is collected
        compose.compose(["replay.source=other", "train.prefill=1e6"])
    assert compose.compose(["model=xyz", "model.y.belief=0", "model.y.state=0"]).model.z.state > 0


def test_nearest_names():
    assert nearest("vid", ["none", "video_background"]) == ["video_background"]
    assert did_you_mean("zzz", schema.names()) == ""
    assert did_you_mean("model.free_nats", schema.names()).startswith("; did you mean model.free_nats_x")


def test_user_errors_wrap_value_errors_only():
    with pytest.raises(UserError, match=r"^bad data$"), user_errors():
        raise ValueError("bad\n  data")
    with pytest.raises(KeyError), user_errors():
        raise KeyError("a bug")


# The script


@pytest.mark.parametrize(
    "arguments",
    [
        ["model.bta=1"],
        ["noise=vidoe"],
        ["model.beta=[1"],
        ["env.task=unknown_task"],
        ["env.task=refused_late"],
        ["--nonsense"],
        ["seed=1,2"],
        ["-m", "env.task=cheetah_run,unknown_task"],
        ["-m", "seed=1,2", "run_dir=runs/try"],
        ["-m", "model=glob(*)"],
    ],
    ids=" ".join,
)
def test_script_refuses_in_one_line_and_writes_nothing(script, arguments):
    done, left = script(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert left == []


def test_script_runs_anywhere_and_writes_nothing_itself(script):
    done, left = script("seed=3", "model.beta=0.5", "run_dir=runs/try")
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs/try 3 0.5\n", "")
    assert left == []


def test_a_bug_has_a_traceback_and_so_has_a_refusal_on_demand(script):
    done, _ = script("env.task=crash")
    assert done.returncode == 1 and "Traceback" in done.stderr and "ValueError: a bug" in done.stderr
    done, _ = script("seed=-1", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1 and "Traceback" in done.stderr and "UserError: seed=-1" in done.stderr


def test_sweep_gives_each_run_its_own_folder(script):
    done, left = script("model.beta=0.5", "-m", "seed=0,1", "model=x,xy")
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("runs/")]
    assert [line.split()[0] for line in printed] == [
        f"runs/cheetah_run-none-{model}-small-seed{seed}-model.beta_0.5" for seed in (0, 1) for model in ("x", "xy")
    ]
    assert all(path.startswith("runs/sweeps") or path == "runs" for path in left)  # the sweep's own record


def test_sweep_goes_on_after_a_failure_and_tells_it(script):
    done, _ = script("-m", "env.task=refused_late,crash,cheetah_run", "run_dir='runs/${env.task}'")
    assert done.returncode == 2
    assert "error: refused late\n" in done.stderr and "ValueError: a bug" in done.stderr
    assert "runs/cheetah_run 0" in done.stdout


def test_help_and_cfg(script):
    done, left = script("--help")
    assert done.returncode == 0 and left == []
    for group, choices in compose.groups().items():
        line = re.search(rf"^ +{group} +(\S.*)$", done.stdout, re.MULTILINE)
        assert line, group
        for choice in choices:
            told = re.escape("paper/TASK_VARIANT[_sac]") if choice.startswith("paper/") else rf"\b{choice}\b"
            assert re.search(told, line[1]), f"{group}={choice} is not in the help"
    mentioned = set(re.findall(r"([a-z_][a-z_.]*)=", done.stdout)) - {"key", "group"}
    assert mentioned and mentioned <= {*schema.names(), *compose.groups()}

    done, left = script("--cfg", "job", "seed=7", "model.beta=0.5")
    assert done.returncode == 0 and left == []
    assert "seed: 7" in done.stdout and "beta: 0.5" in done.stdout


# Files, and runs that exist


def test_save_and_load_are_inverse(default, tmp_path):
    schema.save(default, tmp_path / "deep" / "config.yaml")
    assert schema.load(tmp_path / "deep" / "config.yaml") == default
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("text", ["seed: 1", "- a", "seed: [", "", "\x00"])
def test_load_names_the_file_that_is_wrong(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        schema.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="nowhere"):
        schema.load(tmp_path / "nowhere")


def test_differences(default):
    assert schema.differences(default, default) == []
    one, other = compose.compose(["model.beta=0.25"]), compose.compose(["model.beta=1", "model.beta_y=0.25", "seed=1"])
    assert schema.differences(one, other) == [
        "seed: 0 -> 1",
        "model.beta: 0.25 -> 1",
        "model.beta_z: 0.25 -> 1",
    ]
    longer = ["train.env_steps=2e6", "logger.wandb=offline", "checkpoint.keep=1", "evaluate.video_every=5", "run_dir=b"]
    assert schema.differences(default, compose.compose(longer)) == []
    assert set(CHANGEABLE) <= set(schema.names())


def test_run_dir_belongs_to_one_configuration(default, tmp_path):
    mine = default.model_copy(update={"run_dir": str(tmp_path / "run")})
    run_dir.check(mine)
    assert not (tmp_path / "run").exists()
    assert run_dir.claim(mine) == tmp_path / "run"
    run_dir.claim(mine)  # goes on
    assert run_dir.load(tmp_path / "run") == mine
    with pytest.raises(UserError, match=r"another configuration \(seed: 0 -> 1\)"):
        run_dir.claim(mine.model_copy(update={"seed": 1}))
    assert run_dir.load(tmp_path / "run").seed == 0

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name, message in (("mine", "holds other files"), ("file", "is a file"), ("file/run", "cannot be written")):
        with pytest.raises(UserError, match=message):
            run_dir.claim(mine.model_copy(update={"run_dir": str(tmp_path / name)}))


def test_a_run_knows_its_videos_by_their_content(tmp_path, monkeypatch, caplog):
    """Not by their place, nor by how it is written; other videos would be divided otherwise."""
    for clip in "abc":
        write_images(tmp_path / "videos" / clip, 50)
    monkeypatch.chdir(tmp_path)

    def config(source: str) -> Config:
        return compose.compose(["noise=video_background", f"noise.source={source}", f"run_dir={tmp_path / 'run'}"])

    run_dir.claim(config("videos"))
    run_dir.check(config("videos/"))
    run_dir.check(config(f"{tmp_path}/videos"))
    with pytest.raises(UserError, match=r"another configuration \(noise.source: videos -> pink\)"):
        run_dir.check(config("pink"))
    (tmp_path / "videos").rename(tmp_path / "moved")
    run_dir.claim(config("moved"))
    assert run_dir.load(tmp_path / "run").noise.source == "moved"
    (tmp_path / "moved" / "notes.txt").touch()
    run_dir.check(config("moved"))

    (tmp_path / "run" / "checkpoints" / "000000500").mkdir(parents=True)
    cli.parse_run_options(Options, [f"run_dir={tmp_path / 'run'}"])
    assert caplog.text == ""
    write_images(tmp_path / "moved" / "d", 50)
    with pytest.raises(
        UserError, match=r"noise.source=moved holds other files than at the start of the run, .* put them back"
    ):
        run_dir.check(config("moved"))
    cli.parse_run_options(Options, [f"run_dir={tmp_path / 'run'}"])
    assert "noise.source=moved holds other files than at the start of the run" in caplog.text

    (tmp_path / "run" / "sources.json").unlink()  # of a run made before there was one
    run_dir.check(config("moved/"))
    (tmp_path / "moved").rename(tmp_path / "again")
    with pytest.raises(UserError, match=r"another configuration \(noise.source: moved -> again\)"):
        run_dir.check(config("again"))


def test_a_replay_to_learn_from_may_move_and_grow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def config(source: str) -> Config:
        return compose.compose(["size=debug", f"replay.source={source}", f"run_dir={tmp_path / 'run'}"])

    for name in ("theirs", "other"):
        Path(name, "replay").mkdir(parents=True)
        Path(name, "replay", "spec.json").write_text("{}")
        Path(name, "replay", "episode-00000000-stream-000.bin").write_bytes(b"the same prefill")
        Path(name, "replay", "episode-00000001-stream-000.bin").write_bytes(b"begun alike, then " + name.encode())
    run_dir.claim(config("theirs"))
    with Path("theirs", "replay", "episode-00000001-stream-000.bin").open("ab") as episode:
        episode.write(b"grown")
    Path("theirs", "replay", "episode-00000002-stream-000.bin").write_bytes(b"later")
    Path("theirs").rename("moved")
    run_dir.check(config("moved"))
    run_dir.check(config("moved/replay/"))
    with pytest.raises(UserError, match=r"another configuration \(replay.source: theirs -> other\)"):
        run_dir.check(config("other"))
    run_dir.claim(config("moved"))
    newest = Path("moved", "replay", "episode-00000002-stream-000.bin")
    newest.write_bytes(b"newer, at the same place and as long"[: newest.stat().st_size])
    with pytest.raises(UserError, match=r"replay.source=moved does not hold the episodes of the run's last start any"):
        run_dir.check(config("moved"))


def test_a_constructor_s_file_may_move_and_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def config(constructor: str) -> Config:
        return compose.compose(["env=custom", f"env.constructor='{constructor}'", f"run_dir={tmp_path / 'run'}"])

    Path("mine.py").write_text("first")
    run_dir.claim(config("mine.py:make"))
    Path("mine.py").write_text("second")
    run_dir.claim(config(f"{tmp_path}/mine.py:make"))
    Path("mine.py").rename("ours.py")
    run_dir.check(config("ours.py:make"))
    for other in ("ours.py:build", "package:make"):
        with pytest.raises(UserError, match="another configuration"):
            run_dir.check(config(other))


@pytest.mark.parametrize("place", ["mine.py", "with space/mine.py", "kit.mine"])
def test_a_run_that_was_sent_runs_no_code_of_its_own(place, tmp_path):
    """Unless the command line names it; the advice can be pasted into a shell."""
    values = compose.compose(
        ["env=custom", f"'env.constructor=\"{place}:make\"'".strip("'"), f"run_dir={tmp_path / 'run'}"]
    )
    run_dir.claim(values)
    (tmp_path / "run" / "checkpoints" / "000000500").mkdir(parents=True)
    with pytest.raises(UserError, match=r"would run its own code; if you trust it, add .* to this command") as caught:
        cli.parse_run_options(Options, [f"run_dir={tmp_path / 'run'}"])
    (option,) = shlex.split(str(caught.value).split(", add ")[1].removesuffix(" to this command"))
    config, _, _ = cli.parse_run_options(Options, [f"run_dir={tmp_path / 'run'}", option])
    assert config == run_dir.load(tmp_path / "run")
    with pytest.raises(UserError, match="would run its own code"):  # in a notebook
        run_dir.load_to_play(tmp_path / "run")
    assert run_dir.load_to_play(tmp_path / "run", constructor=f"{place}:make") == config


def test_nothing_is_unpickled():
    """A pickle runs code; torch reads weights alone, and numpy arrays alone."""
    files = [path for folder in ("denoised_mdp", "scripts") for path in (ROOT / folder).rglob("*.py")]
    calls = (
        r"pickle\.(load|loads|Unpickler)|\b(cloudpickle|dill|joblib|shelve|marshal)\b|allow_pickle=True|yaml\.load\("
    )
    found = {path.name for path in files if re.search(calls, path.read_text())}
    assert not found
    for path in files:
        text = path.read_text()
        assert text.count("torch.load(") == text.count("weights_only=True")


@pytest.mark.parametrize("text", ["run_dir=~/runs/a", 'run_dir="~/runs/a"', "run_dir='~/runs/a'"])
def test_the_home_folder_is_the_same_however_it_is_written(text, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    assert compose.compose([text]).run_dir == f"{tmp_path}/my home/runs/a"
    videos = compose.compose(["noise.source=~/films", 'noise.cache="~/c"', "replay.source=~/r"])
    found = [videos.noise.source, videos.noise.cache, videos.replay.source]
    assert found == [f"{tmp_path}/my home/{name}" for name in ("films", "c", "r")]
    sweep = [job[0] for job in cli._jobs(["noise.source=~/a,~/b"], sweep=True)]
    assert [compose.compose([job]).noise.source for job in sweep] == [f"{tmp_path}/my home/{name}" for name in "ab"]
    with pytest.raises(UserError, match=f"run_dir={tmp_path}/my home/runs/a: there is no such folder"):
        cli.parse_run_options(Options, [text])


@pytest.mark.parametrize("script", ["report.py", "compare.py"])
@pytest.mark.parametrize(
    ("out", "message"),
    [("curve.txt", "curve.txt should end with .png or .pdf or .svg"), ("file/a.png", "file is not a folder")],
)
def test_outputs_are_checked_before_the_work(script, out, message, tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, str(ROOT / "scripts" / script), "no run at all", "--out", out]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


class Options(cli.RunOptions):
    """Counts things."""

    episodes: Size = Field(10, description="how many")


@pytest.fixture
def run(default, tmp_path):
    """A run with checkpoints of env steps 500 and 12000, in a folder that was moved since."""
    run_dir.claim(default.model_copy(update={"run_dir": str(tmp_path / "first")}))
    (tmp_path / "first").rename(tmp_path / "run")
    for step in (500, 12000):
        (tmp_path / "run" / "checkpoints" / f"{step:09d}").mkdir(parents=True)
    return tmp_path / "run"


def test_options_of_a_run(run):
    made, checkpoint, options = cli.parse_run_options(Options, [f"run_dir={run}"])
    assert (made.run_dir, checkpoint.name) == (str(run), "000012000")
    assert (options.episodes, options.seed) == (10, 1841)
    arguments = [f"run_dir={run}", "checkpoint=500", "episodes=3", "seed=4", "render.backend=ray", "noise.source=pink"]
    made, checkpoint, options = cli.parse_run_options(Options, arguments)
    assert (checkpoint.name, options.episodes, options.seed) == ("000000500", 3, 4)
    assert (made.render.backend, made.noise.source) == ("ray", "pink")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run_dir=... is missing"),
        (["run_dir=/nowhere"], "run_dir=/nowhere: there is no such folder"),
        (["run_dir=/"], "holds no run: there is no config.yaml"),
        (["RUN", "checkpoint=501"], "only latest and those of env steps 500, 12000"),
        (["RUN", "checkpoint=first"], "only latest"),
        (["RUN", "episode=3"], "there is no such option; did you mean episodes"),
        (["RUN", "episodes=0"], "episodes=0: should be greater than or equal to 1"),
        (["RUN", "episodes=1,2"], "there is no such option"),
        (["RUN", "+episodes=2"], "there is no such option; did you mean episodes"),
        (["RUN", "model.beta=1"], "there is no such option"),
        (["RUN", "render.backend=gl"], "render.backend=gl: should be"),
        (["RUN", "nonsense"], "cannot read 'nonsense'"),
    ],
)
def test_wrong_options_of_a_run_are_one_clear_line(run, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        cli.parse_run_options(Options, [f"run_dir={run}" if a == "RUN" else a for a in arguments])
    assert "\n" not in str(caught.value)


def test_a_run_without_a_checkpoint(default, tmp_path):
    run_dir.claim(default.model_copy(update={"run_dir": str(tmp_path / "run")}))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        cli.parse_run_options(Options, [f"run_dir={tmp_path / 'run'}"])


def test_look_prints_help_and_exits_on_mistakes(monkeypatch, capsys):
    def never(*arguments) -> None:
        raise AssertionError

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["count.py", "--help"])
    cli.look(never, Options)
    told = capsys.readouterr().out
    assert "Counts things." in told and "how many (default 10)" in told and "checkpoint" in told

    monkeypatch.setattr(sys, "argv", ["count.py", "episodes=3"])
    with pytest.raises(SystemExit) as caught:
        cli.look(never, Options)
    assert caught.value.code == 2
    assert re.fullmatch(r"error: [^\n]+\n", capsys.readouterr().err)
