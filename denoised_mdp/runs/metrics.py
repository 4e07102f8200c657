"""The names and meanings of all metrics. docs/metrics.md repeats this table for readers.

The x axis of each is `env_step`: simulator frames of training, counted before action repeat, including the prefill.
"""

from __future__ import annotations

from collections.abc import Collection

METRICS = {
    "train/return": "sum of the rewards of a training episode, with exploration; a mean if several end at one step",
    "train/length": "agent steps of that episode",
    "train/updates": "gradient updates so far",
    "evaluate/return_mean": "mean return of the evaluation episodes, in held-out environments, without exploration",
    "evaluate/return_std": "their standard deviation",
    "evaluate/return_low": "lower end of the mean's 95% confidence interval",
    "evaluate/return_high": "its upper end",
    "evaluate/return_min": "the smallest return",
    "evaluate/return_max": "the largest return",
    "evaluate/length_mean": "mean length of those episodes, in agent steps",
    "analysis/signal_in_x": "signal kept: score of linear probes for controlled and rewarded factors from x, 0 to 1",
    "analysis/noise_in_x": "noise leaked: their score for the noise factor that they read best from x",
    "analysis/signal_outside_x": "signal stranded: their score for the signal from all parts, minus that from x",
    "analysis/collapsed": "1 if a necessary part carries no information, else 0; the log names it",
    "analysis/swapped": "1 if the signal's score from y or z is above that from x, else 0",
    "analysis/leaking": "1 if x contains noise that belongs in y or z, else 0",
    "model/loss": "the world model's loss: Eq. 4 with its weights, or TIA's loss, in nats per agent step",
    "model/observation_loss": "-log p(o|x,y,z), in nats, summed over the picture; 11,292 at 64x64 is a perfect picture",
    "model/observation_mse": "mean squared error of a pixel's channel; black to white is 1",
    "model/reward_loss": "-log p(r|x,y), in nats; 0.919 is a perfect prediction",
    "model/distractor_observation_loss": "-log p(o|y) of the picture that y draws alone, in nats; only with model=tia",
    "model/adversary_loss": "-log p(r|y) of the adversary after its steps, nats: high if hidden; only with model=tia",
    "model/continue_loss": "-log p(the episode continues or not|x), in nats; only with model.continue_head=true",
    "model/kl_x": "KL(q(x)||p(x)), in nats, before free nats and weights: the information in x",
    "model/kl_y": "the same for y; 0 without y",
    "model/kl_z": "the same for z; 0 without z",
    "model/kl_x_loss": "KL of x with its free nats, in nats, before alpha and beta, as in the loss",
    "model/kl_y_loss": "the same for y",
    "model/kl_z_loss": "the same for z",
    "model/kl_x_below_free_nats": "share of the steps whose KL of x lies below its free nats",
    "model/reward_r2": "share of the rewards' variance within batches that the model explains: -1 (or less) to 1",
    "model/reward_r2_ahead": "the same for r_x, six to ten steps after the last picture: a policy learns on it",
    "model/reward_y_share": "variance of r_y, as a share of the reward's; no policy sees it",
    "model/grad_norm": "norm of the world model's gradient, before clipping; with model=tia only the task's part",
    "model/distractor_grad_norm": "the same for the distractor's part; only with model=tia",
    "policy/actor_loss": "the actor's loss. dynamics: minus the mean discounted lambda-return of imagined "
    "states, less policy.entropy x entropy. sac: mean of temperature x log pi(a|x) - Q(x,a) over replayed states",
    "policy/critic_loss": "the critic's loss. dynamics: -log N(lambda-return|value, 1), in nats; 0.919 is a "
    "perfect value. sac: half the squared error of Q, summed over both critics",
    "policy/imagined_reward": "dynamics: mean reward predicted in imagination, from x alone",
    "policy/imagined_value": "dynamics: mean value of imagined states",
    "policy/return_range": "dynamics: from the 5th to the 95th percentile of imagined returns; with normalize_returns",
    "policy/predicted_reward": "sac: mean reward predicted on replayed states, from x alone",
    "policy/q_value": "sac: mean Q(x,a) of replayed actions, of the lower critic; future entropy is part of it",
    "policy/temperature": "sac: weight of the policy's entropy against reward; it adapts to policy.target_entropy",
    "policy/temperature_loss": "sac: log temperature x (entropy - its target)",
    "policy/action_saturation": "share of the policy's actions beyond 0.99 in size; near 1 the policy is stuck",
    "policy/entropy": "mean entropy of the policy, in nats, from one sample per state",
    "policy/actor_grad_norm": "norm of the actor's gradient, before clipping",
    "policy/critic_grad_norm": "norm of the critic's gradient, before clipping. sac: for both critics",
    "replay/steps": "agent steps in the replay, including resets",
    "replay/episodes": "complete episodes in the replay",
    "speed/env_steps_per_second": "simulator frames per second, over the last two minutes, including everything",
    "speed/updates_per_second": "gradient updates per second, while updating",
    "speed/actor_waits": "percent of the time, without evaluation and saving, in which collecting waits for updates",
    "speed/learner_waits": "percent of that time without updates: the learner waits for the actor",
    "speed/cpu_seconds": "processor time of this process since the last line with this metric, all threads and seeds, "
    "workers not included",
    "speed/memory_mib": "largest memory of this process so far, in MiB, workers not included",
}


def check(names: Collection[str]) -> None:
    """Checks that each name is listed.

    Raises:
        ValueError: some names are not; the message names them.
    """
    if unknown := sorted(set(names) - METRICS.keys()):
        raise ValueError(f"no such metric: {', '.join(unknown)}; new names are listed in denoised_mdp/runs/metrics.py")
