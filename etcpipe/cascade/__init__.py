"""The cascade: each flow is answered by the cheapest model at the earliest packet that is sure.

stages       what a cascade is, and its file
queues       rows that wait for a stage, the earliest deadline first
escalation   which unsure flows go on when there is more work than time
runtime      from rows of flows to verdicts
"""
