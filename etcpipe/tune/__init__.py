"""Which features, how many packets and which model: a search against measured cost.

space      what can be chosen: columns of a view, a depth, a model, a waiting time
priors     which choices are promising before anything was measured
told       how informative each column is at each depth; guess uses it
search     which point to measure next; baselines and cato are other strategies
cost       the measured cost of a point, with traffic made by profile
front      the Pareto front, in a file that other verbs take: front.json#7
"""
