"""The commands: `denoised-mdp NAME ...` and `python scripts/NAME.py ...` call `command()` of the module NAME."""

COMMANDS = {
    "train": "trains an agent, or goes on with a run",
    "evaluate": "returns of a trained agent in held-out environments",
    "visualize": "pictures of what it takes for signal and for noise",
    "diagnose": "why it does not learn, or that it does",
    "factorization": "what each part of the latent state knows of the truth",
    "compare": "the factorizations of several runs side by side",
    "regress": "joints from pictures, by a run's encoder and by a new one",
    "report": "learning curves of several runs",
    "baselines": "what a task pays without learning",
    "check_parity": "our numbers against those of the authors' code",
    "import_reference": "weights of the authors' code, as a run of ours",
}
