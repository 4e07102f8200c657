"""The names and meanings of all metrics. docs/metrics.md repeats this table for readers.

The x axis of each is `env_step`: simulator frames of training, counted before action repeat, including the prefill.
"""

from __future__ import annotations

from collections.abc import Collection

METRICS = {
    "train/return": "sum of the rewards of a training episode, which explores; the mean, where several end at one step",
    "train/length": "agent steps of that episode",
    "train/updates": "gradient updates so far",
    "evaluate/return_mean": "mean return of the evaluation episodes, in held-out environments, without exploration",
    "evaluate/return_std": "their standard deviation",
    "evaluate/return_low": "lower end of the mean's 95% confidence interval",
    "evaluate/return_high": "its upper end",
    "evaluate/return_min": "the smallest return",
    "evaluate/return_max": "the largest return",
    "evaluate/length_mean": "mean length of those episodes, in agent steps",
    "analysis/signal_in_x": "signal kept: how well linear probes read what is controlled and rewarded from x, 0 to 1",
    "analysis/noise_in_x": "noise leaked: how well they read the noise factor that x knows best",
    "analysis/signal_outside_x": "signal stranded: how much better they read the signal from all parts than from x",
    "analysis/collapsed": "1 if a part that is needed carries nothing, else 0; the log says which",
    "analysis/swapped": "1 if y or z knows more of the signal than x does, else 0",
    "analysis/leaking": "1 if x knows noise that y or z is there for, else 0",
    "model/loss": "what the world model minimises: Eq. 4 with its weights, or TIA's loss, in nats per agent step",
    "model/observation_loss": "-log p(o|x,y,z), in nats, summed over the picture; 11,292 at 64x64 is a perfect picture",
    "model/observation_mse": "mean squared error of a pixel's channel, black to white being 1",
    "model/reward_loss": "-log p(r|x,y), in nats; 0.919 is a perfect prediction",
    "model/distractor_observation_loss": "-log p(o|y) of the picture that y draws alone, in nats; only with model=tia",
    "model/adversary_loss": "-log p(r|y) of the adversary after its steps, in nats: what y hides; only with model=tia",
    "model/continue_loss": "-log p(the episode goes on or not|x), in nats; only with model.continue_head=true",
    "model/kl_x": "KL(q(x)||p(x)), in nats, before free nats and weights: the information in x",
    "model/kl_y": "likewise of y; 0 if there is no y",
    "model/kl_z": "likewise of z; 0 if there is no z",
    "model/kl_x_loss": "KL of x with its free nats, in nats, before alpha and beta: what the loss counts",
    "model/kl_y_loss": "likewise of y",
    "model/kl_z_loss": "likewise of z",
    "model/kl_x_below_free_nats": "share of the steps whose KL of x lies below its free nats",
    "model/reward_r2": "share of the reward's variance that the model explains, at least -1; 1 is all of it",
    "model/reward_r2_ahead": "the same of r_x six to ten steps after the last picture: what a policy can learn on",
    "model/reward_y_share": "variance of r_y, as a share of the reward's; no policy sees it",
    "model/grad_norm": "norm of the world model's gradient, before clipping; with model=tia of the task's part",
    "model/distractor_grad_norm": "likewise of the distractor's part; only with model=tia",
    "policy/actor_loss": "what the actor minimises. dynamics: minus the mean discounted lambda-return of imagined "
    "states, less policy.entropy x entropy. sac: mean of temperature x log pi(a|x) - Q(x,a) over replayed states",
    "policy/critic_loss": "what the critic minimises. dynamics: -log N(lambda-return|value, 1), in nats; 0.919 is a "
    "perfect value. sac: half the squared error of Q, the sum of both critics'",
    "policy/imagined_reward": "dynamics: mean reward predicted in imagination, from x alone",
    "policy/imagined_value": "dynamics: mean value there",
    "policy/return_range": "dynamics: from the 5th to the 95th percentile of imagined returns; with normalize_returns",
    "policy/predicted_reward": "sac: mean reward predicted on replayed states, from x alone",
    "policy/q_value": "sac: mean Q(x,a) of replayed actions, of the lower critic; future entropy is part of it",
    "policy/temperature": "sac: weight of the policy's entropy against reward; it adapts to policy.target_entropy",
    "policy/temperature_loss": "sac: log temperature x (entropy - its target)",
    "policy/action_saturation": "share of the policy's actions beyond 0.99 in size; near 1 the policy is stuck",
    "policy/entropy": "mean entropy of the policy, in nats, from one sample a state",
    "policy/actor_grad_norm": "norm of the actor's gradient, before clipping",
    "policy/critic_grad_norm": "norm of the critic's gradient, before clipping. sac: of both critics",
    "replay/steps": "agent steps in the replay, the resets included",
    "replay/episodes": "complete episodes in the replay",
    "speed/env_steps_per_second": "simulator frames per second, over the last two minutes, everything included",
    "speed/updates_per_second": "gradient updates per second, while updating",
    "speed/actor_waits": "percent of the time in which collecting waits for updates, evaluation and saving left out",
    "speed/learner_waits": "percent of that time in which no update is computed: the learner waits for the actor",
}


def check(names: Collection[str]) -> None:
    """Checks that each name is listed.

    Raises:
        ValueError: some names are not; the message names them.
    """
    if unknown := sorted(set(names) - METRICS.keys()):
        raise ValueError(f"no such metric: {', '.join(unknown)}; new names are listed in denoised_mdp/runs/metrics.py")
