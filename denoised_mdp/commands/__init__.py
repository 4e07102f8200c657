"""The commands: `denoised-mdp NAME ...` and `python scripts/NAME.py ...` call `command()` of the module NAME."""

COMMANDS = {
    "train": "trains an agent, or resumes a run",
    "evaluate": "measures the returns of a trained agent in held-out environments",
    "visualize": "draws its signal and its noise",
    "diagnose": "reports why it does not learn",
    "factorization": "measures the true factors in each part of the latent state",
    "compare": "draws the factorizations of several runs",
    "regress": "predicts joints from pictures, with a run's encoder and a new one",
    "study": "trains the many runs of a study, a few at a time",
    "report": "draws learning curves of several runs, or writes a page about them",
    "baselines": "measures the returns of a task without learning",
    "check_parity": "compares our numbers with those of the authors' code",
    "import_reference": "imports the weights of the authors' code as a run",
}
