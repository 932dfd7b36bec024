"""Results on sequences with ground truth: made, scored, drawn, tuned."""
