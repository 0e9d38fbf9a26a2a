"""The cascade: each flow is answered by the cheapest model at the earliest packet that is sure.

stages       what a cascade is, and its file
queues       rows that wait for a stage, the earliest deadline first
escalation   which unsure flows go on when there is more work than time
workers      models in the caller's turn, or in threads
states       what is kept of a flow between two stages
pool         rows on their way through the stages
answers      from what stages said to verdicts
runtime      from rows of flows to verdicts
serving      a cascade's models, loaded and in their places
bundle       all of it in one model file
fit          which stages, and when each is sure: candidates, choose, calibrate, curves, report
"""
