"""From `predictions.parquet` to tables, figures and the page: right of this wall nothing is trained or predicted."""
