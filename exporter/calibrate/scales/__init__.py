"""The scales file: what calibration found, as the export reads it."""
