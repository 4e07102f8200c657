"""Trains the many runs of a study, a few at a time: python scripts/study.py table1 --jobs 2"""

from denoised_mdp.commands.study import command

if __name__ == "__main__":
    command()
