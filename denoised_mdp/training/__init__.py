"""The loop: collect, learn, evaluate, log, save.

loop        the order of things, for one run or several seeds
run         what belongs to one seed, in its folder; its resume
learner     what collects and learns: one agent, or several in turn
prefill     random actions at first
speeds      who works, and who waits
signals     jobs that a scheduler stops and starts again

Other learners, which settings that are off by default ask for:

background  updates beside collecting
vectorized  the agents of several seeds in one program
devices     several devices, several processes
"""
