"""The cascade: each flow is answered by the cheapest model at the earliest packet that is sure.

stages       what a cascade is, and its file
queues       rows that wait for a stage, the earliest deadline first
escalation   which unsure flows go on when there is more work than time
workers      models in the caller's turn, or in threads
states       the state of each flow between two stages
pool         the rows that are passing through the stages
answers      from the answers of stages to verdicts
runtime      from rows of flows to verdicts
serving      a cascade with its models loaded
bundle       a whole cascade in one model file
fit          chooses stages and thresholds: candidates, choose, calibrate, curves, report
"""
