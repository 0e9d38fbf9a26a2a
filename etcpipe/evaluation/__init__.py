"""What models are worth: scores, calibration, and what they look at."""
