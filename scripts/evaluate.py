"""Measures the returns of a trained agent in held-out environments: python scripts/evaluate.py run_dir=runs/try"""

from denoised_mdp.commands.evaluate import command

if __name__ == "__main__":
    command()
