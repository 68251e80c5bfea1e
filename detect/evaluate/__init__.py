"""One honest measure: matching, AP, thresholds, intervals, plots. Given records and predictions, never a model."""
