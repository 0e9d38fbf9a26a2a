"""Evaluation of models: scores, calibration, and which inputs they use."""
