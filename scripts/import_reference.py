"""Imports the authors' weights as a run: python scripts/import_reference.py checkpoint_0500000.pth run_dir=runs/try"""

from denoised_mdp.commands.import_reference import command

if __name__ == "__main__":
    command()
