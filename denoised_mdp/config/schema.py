"""Every setting of a run, typed and strict: an unknown key or a value out of range is an error.

`configs/` holds the numbers and their sources; the classes here hold the types, the ranges and the meanings.
Code below the training loop takes plain numbers, never these objects. The defaults here serve the files of the first
runs, which do not contain these settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from yaml import YAMLError

from denoised_mdp.errors import UserError, did_you_mean, one_line

# Settings that may change when a run resumes; a change of any other setting makes another run. A name includes all
# names below it. `train.env_steps` extends a run; the others decide where it runs and what it shows and keeps, and do
# not affect learning.
CHANGEABLE = (
    "devices",
    "distributed",
    "run_dir",
    "train.env_steps",
    "train.workers",
    "evaluate.video_every",
    "evaluate.workers",
    "noise.cache",
    "analysis",
    "checkpoint",
    "logger",
    "replay.device",
    "replay.memory_mb",
)


def _whole(value: Any) -> Any:
    """Makes whole floats integers: 1e6, a good way to write a million, is a float in YAML and on the command line."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    """Makes integers text: the name of a folder such as 2026 is a number in YAML and on the command line."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, Field(min_length=1), BeforeValidator(_text)]
Place = Annotated[Text, AfterValidator(os.path.expanduser)]  # a file or folder; ~ is the user's home
Unit = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Size = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Widths = list[Size]
Norm = Literal["none", "rms"]
Activation = Literal["elu", "silu"]


class Settings(BaseModel):
    """A group of settings: immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DeepMindControl(Settings):
    """The dm_control suite."""

    name: Literal["dmc"]
    task: Text  # domain_task
    image_size: Literal[64, 96]  # pixels, height and width
    action_repeat: Size  # simulator frames per agent step; rewards are summed over them
    camera: Count

    @property
    def episode_frames(self) -> int:
        """Simulator frames of an episode, in every task but lqr, which never ends and is cut there."""
        return 1000


class RoboDesk(Settings):
    """A robot arm at a desk: the extra `robodesk`."""

    name: Literal["robodesk"]
    task: Text  # a task of the package, or tv_green_hue
    reward: Literal["dense", "sparse", "success"]  # sparse: 1 while the task is done; success: 1 for the first time
    image_size: Literal[64, 96]
    action_repeat: Size
    episode_frames: Size  # control steps
    television_hue: bool  # the green button turns the television green


class Sunlight(Settings):
    """A small world with a known right factorisation."""

    name: Literal["sunlight"]
    task: Literal["sunlight"]
    image_size: Literal[64]
    action_repeat: Size
    episode_frames: Size  # steps of the world
    curtain: Unit  # the contrast of each factor: 1 is full, and with 0 the factor does not exist
    bird: Unit
    weather: Unit
    plane: Unit
    curtain_reward: NotNegative  # per frame, for an open curtain
    weather_reward: NotNegative  # per frame, for a clear sky
    pixel_noise: NotNegative  # standard deviation, in grey levels


class Custom(Settings):
    """A custom environment: docs/custom_environment.md."""

    name: Literal["custom"]
    task: Text  # a name for runs and plots
    constructor: Place  # package.module:function or path/to/file.py:function
    arguments: dict[str, Any]  # of the constructor, by name
    image_size: Literal[64, 96]
    action_repeat: Size
    episode_frames: Size  # steps after which a longer episode is cut


FREE = ("env.arguments",)  # sections whose settings the user names

Env = Annotated[DeepMindControl | RoboDesk | Sunlight | Custom, Field(discriminator="name")]  # the world, by its name


class Render(Settings):
    """Rendering. Pixels differ slightly between backends and qualities."""

    backend: Literal["auto", "egl", "osmesa", "ray"]
    quality: Literal["stock", "lite", "fast"]


class Noise(Settings):
    """The distractors. Each has its own switch; only the noisy sensor needs another one, the video background."""

    video_background: bool
    source: Place  # pink | leaves | a directory of videos or of image folders
    cache: Place | None = None  # folder for the decoded clips of a directory; None: denoised-mdp in the user's cache
    clip_frames: Size  # frames that each environment loads once and then repeats
    on_reset: Literal["continue", "random"]  # the frame that a new episode begins with
    noisy_sensor: bool  # the video falsifies a sensor that the reward depends on: cheetah, walker and reacher only
    noisy_sensor_strength: Positive
    camera_jitter: bool  # the whole picture moves on a smooth random walk
    camera_jitter_strength: Positive
    # For RoboDesk only.
    television: bool = False  # shows two colour videos from `source`
    button_noise: bool = False  # noise on the buttons' readings, which the lamps and the television show
    button_noise_strength: Positive = 1.0
    moving_lights: bool = False  # the three lights swing in circles and flicker
    camera_walk: bool = False  # the camera and its aim each move on a smooth random walk
    camera_walk_strength: Positive = 1.0


class Part(Settings):
    """Widths of one latent part: deterministic belief h and stochastic state s. Two zeros switch the part off."""

    belief: Count
    state: Count


PartName = Literal["x", "y", "z"]
NoiseParts = Literal["y", "z", "yz"]  # one of the parts that the policy does not see, or both


class Parts(Settings):
    """Widths of all latent parts of one model."""

    x: Part
    y: Part
    z: Part


class Latents(Settings):
    """Widths for each choice of `model`."""

    x: Parts
    xy: Parts
    xyz: Parts
    tia: Parts | None = None


class Preset(Settings):
    """The tables of the group `size`, from which `model` and `policy` take values."""

    name: str
    latent: Latents
    networks: dict[str, dict[str, Any]] = {}  # by model; `model` checks the values
    policy: dict[str, dict[str, Any]] = {}  # by learner; `policy` checks the values


class WorldModel(Settings):
    """The settings of every world model and its objective."""

    x: Part
    y: Part
    z: Part
    alpha: Positive  # weight of all KL terms
    free_nats_x: NotNegative
    free_nats_y: NotNegative
    reward_weight: Positive  # on the reward's -log p; 1 is the paper's
    normalize_reward: bool = False  # divide that weight by the variance of the batch's rewards
    continue_head: bool  # predict terminations; for worlds that end for other reasons than a time limit
    encoder: Literal["conv", "patch"]
    decoder: Literal["conv", "patch"]
    embedding: Size  # width of the encoder's output
    decoder_hidden: Size  # width of the decoder's first layer
    conv_features: Size  # of the conv encoder's first layer; the other layers have multiples of it
    patch_channels: Annotated[list[Size], Field(min_length=3, max_length=3)]  # of the patch encoder and decoder only
    reward_widths: Widths
    reward_output_scale: NotNegative = 1.0  # times the initial weights of the reward heads' last layers
    norm: Norm = "none"  # before each activation between dense layers, and of the GRU's gates
    activation: Activation = "elu"  # between dense layers
    kl_prior_weight: NotNegative = 1.0  # weight of a KL's gradient to its prior; 1 is Eq. 4
    kl_posterior_weight: NotNegative = 1.0  # weight of a KL's gradient to its posterior; 1 is Eq. 4
    free_nats_on_prior: bool = True  # a KL below its free nats does not train the prior either
    min_stddev: Positive  # of all latent Gaussians
    learning_rate: Positive
    learning_rate_warmup: Count = 0  # updates over which the learning rate rises from 0
    adam_epsilon: Positive
    clip_norm: Positive  # of the gradient, over all parameters that learn together


class DenoisedModel(WorldModel):
    """Denoised MDPs with any of their parts, Eq. 4; x alone is Dreamer."""

    name: Text  # only a label: the widths decide which parts exist
    beta: Fraction  # the default of beta_y and beta_z
    beta_x: Fraction
    beta_y: Fraction
    beta_z: Fraction
    free_nats_z: NotNegative
    reward_y_penalty: NotNegative = 0.0  # weight of r_y^2 against the reward's error, so that x explains it first
    decode_every: Size = 1  # an update decodes every n-th picture; 1 is the paper's
    beta_free_nats_x: Unit | None  # the share of beta_x whose KL has free nats; None: all of it
    z_prior_uses_y: bool


class TIAModel(WorldModel):
    """Task Informed Abstractions: x is the task's latent, y the distractor's."""

    name: Literal["tia"]
    lambda_radv: NotNegative  # weight of the error of the adversary, a reward head on y
    lambda_os: NotNegative  # weight of the picture that y draws alone
    dissociation_steps: Size  # of the adversary, before each update of the rest
    dissociation_learning_rate: Positive


DENOISED, TIA = "x|xy|xyz", "tia"  # the names of the two kinds in errors


def _kind(values: Any) -> str:
    name = values.get("name") if isinstance(values, Mapping) else getattr(values, "name", None)
    return TIA if name == TIA else DENOISED


Model = Annotated[Annotated[DenoisedModel, Tag(DENOISED)] | Annotated[TIAModel, Tag(TIA)], Discriminator(_kind)]


class Learner(Settings):
    """The settings of every policy learner; the policy sees x."""

    actor_widths: Widths
    critic_widths: Widths
    norm: Norm = "none"  # of actor and critics, as of the model
    activation: Activation = "elu"
    actor_learning_rate: Positive
    critic_learning_rate: Positive
    learning_rate_warmup: Count = 0  # updates over which both learning rates rise from 0
    adam_epsilon: Positive
    discount: Unit
    exploration_noise: NotNegative  # standard deviation added to the action while collecting
    mode_samples: Size  # the evaluation action is the likeliest of this many samples


class DynamicsPolicy(Learner):
    """Back-propagation through the dynamics of x."""

    name: Literal["dynamics"]
    clip_norm: Positive  # of the gradient, for actor and critic separately
    lambda_: Unit
    horizon: Annotated[int, Field(ge=2), BeforeValidator(_whole)]  # imagined agent steps; the last is the bootstrap
    start_every: Size  # imagine from every n-th posterior state; 1 is the paper's
    entropy: NotNegative  # weight of the policy's entropy in the actor's objective; 0 is the paper's
    # None of the following is in the paper.
    burn_in: Count = 0  # first rows of each sequence from which nothing is imagined
    actor: Literal["tanh_normal", "clipped_normal"] = "tanh_normal"  # clipped: its stddev stays within 0.1 to 1
    actor_output_scale: NotNegative = 1.0  # times the initial weights of the last layer
    gradient: Literal["dynamics", "reinforce"] = "dynamics"  # of the returns, to the actor
    normalize_returns: bool = False  # by the range from their 5th to 95th percentile, if it is above 1
    critic: Literal["gaussian", "two_hot"] = "gaussian"  # two_hot: a distribution over bins of symlog(return)
    critic_output_scale: NotNegative = 1.0
    slow_critic_weight: NotNegative = 0.0  # of a moving average of the critic, as the critic's second target
    slow_critic_rate: Fraction = 0.02  # the share of the critic that its average takes over in each update
    replay_critic_weight: NotNegative = 0.0  # of the critic's loss on replayed states


class SACPolicy(Learner):
    """Soft actor-critic on the transitions of x."""

    name: Literal["sac"]
    clip_norm: Positive | None  # of the gradient, for actor and critics separately; None: no clipping
    tau: Fraction  # the share of the critics that their targets take over in each update
    initial_temperature: Positive  # weight of the policy's entropy against reward, before it is learned
    temperature_learning_rate: Positive
    target_entropy: Annotated[float, Field(le=0.69)]  # nats per dimension of the action; 0.69, or log 2, is uniform


Precision = Literal["float32", "bfloat16"]
Policy = Annotated[DynamicsPolicy | SACPolicy, Field(discriminator="name")]


class Replay(Settings):
    """Experience on disk."""

    capacity: Size  # agent steps kept on disk; the oldest whole episodes are removed first
    memory_mb: Size  # limit on the batches in memory at a time, those of two chunks of updates
    device: bool = False  # keep a copy of all rows to sample from on the accelerator
    source: Place | None  # train on the replay of this other run, without collecting
    factors: bool  # keep the ground truth of every step (joints, targets, all noise) beside its frame
    include_running: bool  # sample from running episodes too


class Train(Settings):
    """Environment steps are simulator frames of all environments together, counted before action repeat."""

    envs: Size = 1  # environments that collect side by side
    workers: Count = 0  # processes that run the environments; 0: this process does
    env_steps: Size
    prefill: Count  # env steps of random actions
    # held: full force either way, for ten agent steps; varied: random force, for 2, 4, 8 or 16 of them
    prefill_policy: Literal["uniform", "held", "varied"] = "uniform"
    policy_after: Count = 0  # updates of the model alone, before the policy learns
    every: Size  # env steps between blocks of updates
    updates: Size  # gradient updates in a block
    staleness: Literal[0, 1] = 0  # blocks of updates by which the collecting policy is behind
    batch_size: Size  # B, sequences
    batch_length: Annotated[int, Field(ge=2), BeforeValidator(_whole)]  # T, agent steps


class Evaluate(Settings):
    """Evaluation during training: episodes of the policy in held-out environments; env steps as in `Train`."""

    workers: Count = 0  # processes that run the environments; 0: this process does
    every: Size  # env steps
    episodes: Size  # per evaluation, one in each held-out environment
    seed: Count
    video_every: Size  # env steps


class Analysis(Settings):
    """Measuring the factorization during training, on a few recorded episodes of random policies."""

    every: Size | None  # env steps; None: never
    clips: Size  # number of environments to record in: the first ones of `evaluate`, each with its own video
    repeats: Annotated[int, Field(ge=2), BeforeValidator(_whole)]  # episodes of each policy in each environment


class Checkpoint(Settings):
    """The saved state from which a stopped run resumes."""

    every: Size  # env steps
    keep: Size  # number of the newest checkpoints to keep


class Logger(Settings):
    """The destinations of metrics beside metrics.jsonl."""

    tensorboard: bool
    wandb: Literal["disabled", "offline", "online"]
    progress: bool


class Config(Settings):
    """All settings of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_whole)]
    seeds: Size = 1  # number of seeds to train together, from `seed` on; each one's own configuration has 1
    run_dir: Place
    precision: Precision = "float32"  # of matrix products and convolutions
    devices: Size = 1  # of each process; batches are divided among them
    distributed: bool = False  # several processes, started by a scheduler
    env: Env
    render: Render
    noise: Noise
    size: Preset
    model: Model
    policy: Policy
    replay: Replay
    train: Train
    evaluate: Evaluate
    analysis: Analysis = Analysis(every=None, clips=2, repeats=2)
    checkpoint: Checkpoint
    logger: Logger

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Checks dependencies between settings; reports the first violation."""
        for misfit in _misfits(self):
            raise ValueError(misfit)
        return self


def _misfits(config: Config) -> Iterator[str]:
    yield from _misfits_of_model(config.model)
    yield from _misfits_of_updates(config)
    yield from _misfits_of_collecting(config)
    yield from _misfits_of_lengths(config)


def _misfits_of_model(model: DenoisedModel | TIAModel) -> Iterator[str]:
    for name, part in ((name, getattr(model, name)) for name in get_args(PartName)):
        if name == "x" and not (part.belief and part.state):
            yield (
                f"model.x.belief={part.belief} model.x.state={part.state}: both must be at least 1, "
                "because the policy sees only x"
            )
        if bool(part.belief) != bool(part.state):
            yield (
                f"model.{name}.belief={part.belief} model.{name}.state={part.state}: "
                f"both must be 0, which switches {name} off, or both at least 1"
            )
    if isinstance(model, TIAModel) and (not model.y.belief or model.z.belief):
        yield f"model.y.belief={model.y.belief} model.z.belief={model.z.belief}: model=tia has x and y, and no z"
    if isinstance(model, DenoisedModel) and (model.beta_free_nats_x or 0) > model.beta_x:
        yield f"model.beta_free_nats_x={model.beta_free_nats_x}: must not exceed model.beta_x={model.beta_x}"


def _misfits_of_updates(config: Config) -> Iterator[str]:
    model, train = config.model, config.train
    if isinstance(model, DenoisedModel) and train.batch_size % model.decode_every:
        yield f"model.decode_every={model.decode_every}: must divide train.batch_size={train.batch_size}"
    if isinstance(config.policy, DynamicsPolicy):
        burn_in, every = config.policy.burn_in, config.policy.start_every
        if burn_in >= train.batch_length:
            yield f"policy.burn_in={burn_in}: must be below train.batch_length={train.batch_length}"
        elif every > (states := train.batch_size * (train.batch_length - burn_in)):
            yield (
                f"policy.start_every={every}: must not exceed {states}, the states of a batch that imagination can "
                "start from (train.batch_size x train.batch_length, without policy.burn_in rows)"
            )


def _misfits_of_collecting(config: Config) -> Iterator[str]:
    train, replay = config.train, config.replay
    if train.prefill >= train.env_steps:
        yield (
            f"train.prefill={train.prefill}: must be below train.env_steps={train.env_steps}, or the agent would not "
            "learn"
        )
    first_end = train.envs * config.env.episode_frames  # until then all environments are in their first episode
    if train.envs > 1 and config.env.name != "custom" and not replay.include_running and first_end > train.env_steps:
        yield (
            f"train.envs={train.envs}: their first episodes end at env step {first_end}, after train.env_steps="
            f"{train.env_steps}, and the agent cannot learn before; choose fewer, or replay.include_running=true"
        )
    if config.seeds > 1 and config.distributed:
        yield f"seeds={config.seeds}: impossible with distributed=true, which takes one seed"
    if replay.device and config.distributed:
        yield "replay.device=true: impossible with distributed=true, where each process reads its share from the disk"


def _misfits_of_lengths(config: Config) -> Iterator[str]:
    train, replay = config.train, config.replay
    if replay.capacity < train.batch_length:
        yield f"replay.capacity={replay.capacity}: must be at least train.batch_length={train.batch_length}"
    if train.every < config.env.action_repeat:
        yield (
            f"train.every={train.every}: must be at least env.action_repeat={config.env.action_repeat}, "
            "the frames of one agent step"
        )
    if config.env.action_repeat > config.env.episode_frames:
        yield f"env.action_repeat={config.env.action_repeat}: an episode has {config.env.episode_frames} frames"
    rows = -(-config.env.episode_frames // config.env.action_repeat) + 1  # the reset is a row too
    if train.batch_length > rows:
        yield (
            f"train.batch_length={train.batch_length}: must not exceed an episode, {rows} steps with "
            f"env.action_repeat={config.env.action_repeat}"
        )


def names() -> list[str]:
    """Returns the dotted names of all settings and sections: model, model.alpha, model.x, model.x.belief, ...

    They include those of every world under `env`, every model and every learner under `policy`, chosen or not.
    """
    return list(dict.fromkeys(_names(Config, "")))


def _names(settings: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        yield prefix + name
        for kind in get_args(field.annotation) or (field.annotation,):  # `env`, `model`, `policy` have several
            kind = getattr(kind, "__origin__", kind)  # the type inside an Annotated
            if isinstance(kind, type) and issubclass(kind, Settings):
                yield from _names(kind, f"{prefix}{name}.")


def of_other_models(model: Mapping[str, Any]) -> list[str]:
    """Returns the settings in `model` that only the other kind of model has."""
    kinds = {DENOISED: DenoisedModel, TIA: TIAModel}
    own = kinds.pop(_kind(model)).model_fields
    (other,) = kinds.values()
    return [name for name in model if name not in own and name in other.model_fields]


def parse(values: Mapping[str, Any]) -> Config:
    """Checks nested plain data against the types, ranges and dependencies above.

    Raises:
        UserError: names each wrong setting and its allowed values, in one line.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, names())) from None


def explain(error: ValidationError, known: list[str]) -> str:
    """Returns pydantic's errors in one line; `known`: the names to suggest for an unknown one."""
    lines: list[str] = []
    reported = set()
    for finding in error.errors():
        kind, value = finding["type"], finding.get("input")
        name, chosen = _place(finding["loc"])
        if kind == "extra_forbidden" and name in known:
            lines.append(f"{name}={value}: is not a setting of {chosen}")
        elif kind == "extra_forbidden":
            lines.append(f"{name}: there is no such setting{did_you_mean(name, known)}")
        elif kind == "union_tag_invalid":
            context = finding.get("ctx", {})
            lines.append(f"{name}.name={context.get('tag')}: should be one of {context.get('expected_tags')}")
        elif kind == "union_tag_not_found":
            lines.append(f"{name}.name: is missing")
        elif kind == "missing":
            lines.append(f"{name}: is missing" + (f", {chosen} sets it" if chosen else ""))
        elif kind == "value_error":
            lines.append(str(finding.get("ctx", {}).get("error")))
        elif kind in ("model_type", "dict_type"):
            inside = [k for k in known if k.startswith(f"{name}.")]
            lines.append(f"{name}={value}: is a section, with settings such as {', '.join(inside[:2])}")
        elif (str(value), kind) not in reported:  # else from another wrong setting, as model.beta_y from model.beta
            reported.add((str(value), kind))
            lines.append(f"{name}={value}: {finding['msg'].removeprefix('Input ').removeprefix('String ')}")
    return one_line("; ".join(lines))


def _place(location: tuple[int | str, ...]) -> tuple[str, str | None]:
    """Returns the dotted name of a setting, and the choice that it belongs to, as policy=sac, if there is one."""
    place = [str(part) for part in location]
    chosen = None
    if len(place) > 1 and place[0] in ("env", "model", "policy"):  # pydantic inserts the name of the chosen one
        chosen = f"{place[0]}={place.pop(1)}"
    return ".".join(place), chosen


def save(config: Config, path: Path) -> None:
    """Writes the settings as YAML, whole or not at all; `load` reads them back equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(OmegaConf.to_yaml(OmegaConf.create(config.model_dump())))
    partial.replace(path)


def load(path: Path) -> Config:
    """Reads what `save` wrote.

    Raises:
        UserError: there is no such file, or it is not a valid configuration.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        if not isinstance(values, dict):
            raise UserError(f"{path} is not a configuration")
        return parse({str(key): value for key, value in values.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def differences(old: Config, new: Config) -> list[str]:
    """Returns changes that make `new` another run than `old`, as ["model.beta: 0.25 -> 1"], without CHANGEABLE ones."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{name}: {_plain(before.get(name))} -> {_plain(after.get(name))}"
        for name in before | after  # each world has its own settings
        if before.get(name) != after.get(name) and not is_changeable(name)
    ]


def _plain(value: Any) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def is_changeable(name: str) -> bool:
    """Returns whether the setting with this dotted name may change when a run resumes."""
    return any(name == entry or name.startswith(f"{entry}.") for entry in CHANGEABLE)


def _leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Preset):  # tables; `model` and `policy` contain the values in use
            continue
        if isinstance(value, Settings):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
