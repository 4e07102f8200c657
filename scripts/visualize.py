"""Draws a trained agent's signal and noise: python scripts/visualize.py run_dir=runs/try"""

from denoised_mdp.commands.visualize import command

if __name__ == "__main__":
    command()
