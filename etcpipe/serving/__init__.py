"""Serving measured: recorded flows come again, as they came or as many as is asked for.

recorded     labelled flows with their packets and times
arrivals     when flows begin (as recorded, Poisson, in bursts) and when their rows are there
replay       rows go through a cascade's runtime by a clock that skips idle time
baselines    what a cascade is held against: one model, random escalation, an oracle
bench        all of these in one run, report and plots
"""
