"""Trains an agent: python scripts/train.py env.task=cheetah_run noise=video_background seed=1 run_dir=runs/try"""

from denoised_mdp.commands.train import command

if __name__ == "__main__":
    command()
