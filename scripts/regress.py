"""Predicts joints from pictures with a trained encoder and a new one: python scripts/regress.py run_dir=runs/try"""

from denoised_mdp.commands.regress import command

if __name__ == "__main__":
    command()
