"""The wavelet transform against a sum over samples, and against sines, whose amplitude it must give."""

import numpy as np
import torch

from ecglib import models
from ecglib.models.encoders import scalogram as source


def direct(x, hz, fs):
    """The definition: the sum over samples with a Morlet wavelet (Torrence and Compo, doi 10.1175/1520-0477(1998)079
    <0061:APGTWA>2.0.CO;2, equation 1 and table 1), scaled so that a sine gives its amplitude."""
    t = np.arange(len(x)) / fs
    rows = []
    for f in hz:
        width = 6.0 / (2 * np.pi * f)
        lag = (t[:, None] - t[None, :]) / width
        wavelet = 2 * np.exp(1j * 6.0 * lag - lag**2 / 2) / (width * np.sqrt(2 * np.pi))
        rows.append(np.abs(wavelet @ x) / fs)
    return np.stack(rows)


def test_the_image_is_the_morlet_transform():
    rng = np.random.default_rng(0)
    x, hz = rng.normal(size=700).cumsum() / 10, np.geomspace(1, 30, 24)
    x -= x.mean()
    made = source.scalogram(torch.from_numpy(x), torch.from_numpy(hz).float(), 100.0)
    expected = direct(x, hz, 100.0)
    # at 30 Hz the sampled wavelet sees a four thousandth of what lies above half the rate
    np.testing.assert_allclose(made, expected, atol=1e-3 * expected.max(), rtol=2e-3)
    np.testing.assert_allclose(made[:16], expected[:16], atol=1e-5 * expected.max(), rtol=1e-4)


def test_a_sine_has_its_amplitude_at_its_frequency():
    encoder = models.build("scalogram")
    t = torch.arange(4000) / 100
    for row in (6, 12, 20):
        hz = encoder.hz[row]
        made = source.scalogram(0.7 * torch.sin(2 * torch.pi * hz * t), encoder.hz, 100.0)[:, 1500:2500]
        assert (made.mean(1).argmax() == row) and torch.allclose(made[row], torch.tensor(0.7), atol=1e-3)


def test_the_image_has_rows_of_frequencies_and_columns_of_time():
    encoder = models.build("scalogram", n_leads=3)
    assert encoder.image(torch.randn(2, 3, 733)).shape == (2, 3, 24, 184)
    assert torch.allclose(encoder.hz[1:] / encoder.hz[:-1], (encoder.hz[1] / encoder.hz[0]).expand(23))
    assert models.build("scalogram", fs=50.0).hz.max() <= 15.01
