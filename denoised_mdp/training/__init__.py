"""The loop: collect, learn, evaluate, log, save.

loop        the order of things, for one run or several seeds
run         what belongs to one seed, in its folder; its resume
seeds       the agents of several seeds, in turn or as one
background  updates beside collecting, and who waits for whom
devices     several devices, several processes
prefill     random actions at first
signals     jobs that a scheduler stops and starts again
"""
