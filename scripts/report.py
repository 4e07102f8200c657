"""Draws learning curves of several runs: python scripts/report.py runs/a runs/b --out docs/results/curves.png"""

from denoised_mdp.commands.report import command

if __name__ == "__main__":
    command()
