"""Why an AP is what it is: matches, error types, calibration, confusion, thresholds, groups of objects."""
