"""The agent: one gradient update, one action, and the policy learners.

agent         the state that is learned; an update, a chunk of updates, acting
build         from the configuration to world model and learners
actor_critic  imagination, lambda-return, actor and critic: learning through the dynamics of x
critic        the value of x, as a Gaussian or a distribution over bins
sac           soft actor-critic on the transitions of x
shift         random shifts of training pictures
batch         experience in the form that compiled updates take
"""

from denoised_mdp.agent.agent import ActingState, Agent, TrainState

__all__ = ["ActingState", "Agent", "TrainState"]
