"""The study as a pipeline: the command line, notebooks as stages, stages side by side."""
