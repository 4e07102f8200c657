"""Measures how well a trained model separates signal from noise: python scripts/factorization.py run_dir=runs/try"""

from denoised_mdp.commands.factorization import command

if __name__ == "__main__":
    command()
