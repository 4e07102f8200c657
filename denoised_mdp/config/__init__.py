"""What a run is: every setting, its type and its range, and how a configuration is made, kept and compared.

sections  the settings themselves, section by section: types, ranges, meaning
schema    all of them as one; reading, checking, writing and comparing
compose   a configuration from overrides and the files of `configs/`

No jax here. `compose` brings Hydra along, so that it is imported by those who need it.
"""

from denoised_mdp.config.schema import Config

__all__ = ["Config"]
