"""R peaks, beats, episodes and noise in recordings of one or two leads, from seconds to days."""
