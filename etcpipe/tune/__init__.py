"""Which features, how many packets and which model: a search against measured cost.

space      what can be chosen: columns of a view, a depth, a model, a waiting time
priors     what is likely good before anything was measured
told       what each column tells at each depth, which guess takes into account
search     points to try next, by Optuna; baselines and cato are others' ways
profile    what a point costs, measured
front      the points that nothing beats, in a file that other verbs take: front.json#7
"""
