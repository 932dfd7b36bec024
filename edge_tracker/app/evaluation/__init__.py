"""Evaluation on sequences with ground truth: running, scoring, plotting, tuning."""
