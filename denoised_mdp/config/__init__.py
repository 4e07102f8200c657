"""The configuration of a run: every setting with its type and range; composing, saving and comparing configurations.

sections  the settings, section by section: types, ranges, meanings
schema    the whole configuration; reading, checking, writing and comparing it
compose   a configuration from overrides and the files of `configs/`

No jax here. Import `compose` only where it is needed, because it imports Hydra.
"""

from denoised_mdp.config.schema import Config

__all__ = ["Config"]
