"""The paper's opening example (Sec. 1, Fig. 1) as a small world whose right factorisation is known."""

from denoised_mdp.envs.sunlight.world import FACTORS, Sunlight

__all__ = ["FACTORS", "Sunlight"]
