"""The sections of a configuration, typed: the meaning and the range of each setting.

`configs/` holds the numbers and their sources. `schema.py` makes a `Config` of these sections, and checks what no
section can check by itself. The defaults here serve the files of the first runs, which lack these settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetPydanticSchema,
    Tag,
)
from pydantic_core.core_schema import literal_schema


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
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Size = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_whole)]
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
    video_colour: bool = False  # the background is in colour; the television always is
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


class Parts(Settings):
    """Widths of all latent parts of one model."""

    x: Part
    y: Part
    z: Part


def _one_of(names: Iterable[str]) -> GetPydanticSchema:
    """Returns a type that accepts exactly these names."""
    return GetPydanticSchema(lambda *_: literal_schema(list(names)))


PART_NAMES = tuple(Parts.model_fields)
NOISE_NAMES = tuple(name for name in PART_NAMES if name != "x")  # what the policy does not see
PartName = Annotated[str, _one_of(PART_NAMES)]
_NOISE_WORDS = ["".join(some) for n in range(len(NOISE_NAMES)) for some in combinations(NOISE_NAMES, n + 1)]
NoiseParts = Annotated[str, _one_of(_NOISE_WORDS)]


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


class WorldModel(Parts):
    """The settings of every world model and its objective."""

    alpha: Positive  # weight of all KL terms
    free_nats_x: NotNegative
    free_nats_y: NotNegative
    reward_weight: Positive  # on the reward's -log p; 1 is the paper's
    normalize_reward: bool = False  # divide that weight by the variance of the batch's rewards
    reward_variance_decay: Decay = 0.0  # of its running average over updates; 0: the variance of the batch alone
    reward_variance_floor: Fraction = 1.0  # least share of it, where the batch's is smaller; 1: it alone counts
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
    states: Literal["gaussian", "categorical"] = "gaussian"  # the distribution of all stochastic states
    classes: Annotated[int, Field(ge=2)] = 16  # of each categorical variable; the widths of states are multiples of it
    min_stddev: Positive  # of all latent Gaussians
    learning_rate: Positive
    learning_rate_warmup: Count = 0  # updates over which the learning rate rises from 0
    adam_epsilon: Positive
    decode_every: Size = 1  # an update decodes every n-th picture; 1 is the paper's
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
TIA_PARTS = ("x", "y")


def _kind(values: Any) -> str:
    name = values.get("name") if isinstance(values, Mapping) else getattr(values, "name", None)
    return TIA if name == TIA else DENOISED


Model = Annotated[Annotated[DenoisedModel, Tag(DENOISED)] | Annotated[TIAModel, Tag(TIA)], Discriminator(_kind)]


def of_other_models(model: Mapping[str, Any]) -> list[str]:
    """Returns the settings in `model` that only the other kind of model has."""
    kinds = {DENOISED: DenoisedModel, TIA: TIAModel}
    own = kinds.pop(_kind(model)).model_fields
    (other,) = kinds.values()
    return [name for name in model if name not in own and name in other.model_fields]


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
    critics: Literal[1, 2] = 1  # two learn apart, and the smaller value counts
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
    recent_share: Unit = 0.0  # share of the sequences drawn from the newest episodes only; 0 is the paper's
    recent_episodes: Size = 20  # number of those episodes


class Train(Settings):
    """Environment steps are simulator frames of all environments together, counted before action repeat."""

    envs: Size = 1  # environments that collect side by side
    workers: Count = 0  # processes that run the environments; 0: this process does
    env_steps: Size
    prefill: Count  # env steps of random actions
    # held: full force either way, for ten agent steps; varied: random force, for 2, 4, 8 or 16 of them
    prefill_policy: Literal["uniform", "held", "varied"] = "uniform"
    # pixels, at most half of a small picture; each training sequence is moved by up to so many, as a whole
    random_shift: Annotated[int, Field(ge=0, le=32), BeforeValidator(_whole)] = 0
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
