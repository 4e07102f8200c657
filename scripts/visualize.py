"""Pictures of what a trained agent believes: python scripts/visualize.py run_dir=runs/try"""

from denoised_mdp.commands.visualize import command

if __name__ == "__main__":
    command()
