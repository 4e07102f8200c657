"""The loop: collect, learn, evaluate, log, save.

loop        the order of the steps, for one run or several seeds
run         the state of one seed, in its folder; its resume
learner     acting and learning: one agent, or several in turn
prefill     random actions at first
speeds      working and waiting times of actor and learner
signals     jobs that a scheduler stops and starts again

Other learners, for settings that are off by default:

background  updates beside collecting
vectorized  the agents of several seeds in one program
devices     several devices, several processes

Above all of them:

runners     the runs of a study, a few at a time or as jobs of a cluster
"""
