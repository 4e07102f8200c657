"""Reports why an agent does not learn: python scripts/diagnose.py run_dir=runs/try"""

from denoised_mdp.commands.diagnose import command

if __name__ == "__main__":
    command()
