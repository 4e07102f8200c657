"""Denoised MDPs (Wang et al., ICML 2022): world models that tell signal from noise.

config/     what a run is: settings and their ranges
envs/       the world: tasks, noise, rendering, workers
model/      what is believed: the latents, the graph, encoder and decoder, Eq. 4
agent/      how it acts and learns: one update, one action, the policy learners
runs/       what lies on disk: folders, checkpoints, replay, metrics, held-out episodes
analysis/   looking at a run: pictures, curves, what each part knows of the truth
training/   the loop
reference/  against the authors' code: weights, parity
commands/   what a user calls: train, evaluate, visualize, ...

Beside them `cli.py` is the command line, `__main__.py` the command `denoised-mdp`, `errors.py` what a user can set
right, `cache.py` where things are kept, `variables.py` what a shell may have set; `configs` leads to the settings at
the repository's top, and is a folder of its own in a wheel.
Imports point one way: errors, cache, variables < model, envs, config < agent < runs < analysis, reference, cli
< training < commands.

What a user imports, each when it is first asked for, so that the places without jax stay without it: `load` a trained
agent, open a run's `Replay`, `filter_episode`, `freeze` the `NOISE_PARTS`, `decode`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoised_mdp.analysis.posterior import filter_episode
    from denoised_mdp.analysis.visualize import decode, freeze
    from denoised_mdp.model.latent import NOISE_PARTS
    from denoised_mdp.runs.evaluation import load
    from denoised_mdp.runs.replay import Replay

__version__ = "0.2.0"

__all__ = ["NOISE_PARTS", "Replay", "decode", "filter_episode", "freeze", "load"]

_PLACES = {
    "NOISE_PARTS": "model.latent",
    "Replay": "runs.replay",
    "decode": "analysis.visualize",
    "filter_episode": "analysis.posterior",
    "freeze": "analysis.visualize",
    "load": "runs.evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
