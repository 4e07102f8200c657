"""The paper's opening example (Sec. 1, Fig. 1) as a small world with a known correct factorisation."""

from denoised_mdp.envs.sunlight.world import FACTORS, Sunlight

__all__ = ["FACTORS", "Sunlight"]
