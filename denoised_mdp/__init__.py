"""Denoised MDPs (Wang et al., ICML 2022): world models that separate signal from noise.

config/     the settings of a run and their ranges
envs/       the world: tasks, noise, rendering, workers
model/      the world model: latents, graph, encoder and decoder, Eq. 4
agent/      acting and learning: one update, one action, the policy learners
runs/       files on disk: folders, checkpoints, replay, metrics, held-out episodes
analysis/   a trained run: pictures, curves, the true factors in each part
training/   the loop
reference/  comparison with the authors' code: weights, parity
commands/   the commands of a user: train, evaluate, visualize, ...

Beside them, `cli.py` is the command line, `__main__.py` the command `denoised-mdp`, `errors.py` the errors that a user
can correct, `cache.py` the cache folder, and `variables.py` the environment variables. `configs` is a link to the
settings at the repository's top, and a folder of its own in a wheel.
Imports point one way: errors, cache, variables < model, envs, config < agent < runs < analysis, reference, cli
< training < commands.

A user imports these names from here: `load` a trained agent, open a run's `Replay`, `filter_episode`, `freeze` the
`NOISE_PARTS`, `decode`. Each is imported at its first use, so that modules without jax do not import it.
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
