"""From an encoder to `predictions.parquet`: features, classifiers, probes, metrics and their bootstrap."""
