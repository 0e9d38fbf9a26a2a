"""Measures serving: recorded flows are replayed, as recorded or at a chosen rate.

recorded     labelled flows with their packets and times
arrivals     when flows begin (as recorded, Poisson, in bursts) and when their rows arrive
replay       passes rows through a cascade's runtime, by a clock that skips idle time
baselines    for comparison with a cascade: one model, random escalation, an oracle
bench        all of these in one run, with report and plots
"""
