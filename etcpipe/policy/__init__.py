"""Policies: what a verdict does to its flow's packets, by tc."""
