"""Compares our numbers with the reference's: python scripts/check_parity.py tests/golden/*.npz"""

from denoised_mdp.commands.check_parity import command

if __name__ == "__main__":
    command()
