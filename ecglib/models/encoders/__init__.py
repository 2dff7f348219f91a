"""One architecture a file, found by its file name; `ecglib.models` says what such a file holds."""
