"""Tells joints from pictures by a trained encoder, and by a new one: python scripts/regress.py run_dir=runs/try"""

from denoised_mdp.commands.regress import command

if __name__ == "__main__":
    command()
