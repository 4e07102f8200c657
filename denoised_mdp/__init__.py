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
"""

__version__ = "0.2.0"
