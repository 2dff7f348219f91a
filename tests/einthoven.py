"""How far twelve leads are from the identities of Einthoven and Goldberger."""

import numpy as np

from ecglib.data.recording import LEADS, limb


def einthoven_residual(signal12):
    """Largest root-mean-square error over III, aVR, aVL and aVF of leads (12, time), mV, in standard order."""
    signal = np.asarray(signal12, np.float64)
    implied = limb(signal[0], signal[1])
    return max(np.sqrt(np.nanmean((signal[LEADS.index(name)] - values) ** 2)) for name, values in implied.items())
