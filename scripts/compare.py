"""Draws the factorizations of several runs: python scripts/compare.py runs/a runs/b --out docs/comparison.png"""

from denoised_mdp.commands.compare import command

if __name__ == "__main__":
    command()
