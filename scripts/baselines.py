"""Measures the returns of a task without learning: python scripts/baselines.py walker_walk --out baselines.json"""

from denoised_mdp.commands.baselines import command

if __name__ == "__main__":
    command()
