"""Random convolutions against plain loops, and against a series that is computed by hand."""

import numpy as np
import pytest
import torch

from ecglib import EcgError
from ecglib.evaluation import classifiers, rocket


def plain_response(x, weight, dilation, padded):
    """Correlation of x (time,) with 9 weights, one product at a time; zeros outside where it is padded."""
    reach, n = 4 * dilation, len(x)
    out = []
    for t in range(0 if padded else reach, n if padded else n - reach):
        places = [t + (j - 4) * dilation for j in range(9)]
        out.append(sum(w * x[i] for w, i in zip(weight, places, strict=True) if 0 <= i < n))
    return np.array(out)


def plain_statistics(response, thresholds):
    """Share, height, longest stretch above each threshold, then the maximum; a loop over time."""
    values = []
    for threshold in thresholds:
        above, longest, run = [], 0, 0
        for r in response:
            run = run + 1 if r - threshold > 0 else 0
            longest = max(longest, run)
            above += [r - threshold] if r - threshold > 0 else []
        values += [len(above) / len(response), np.mean(above) if above else 0.0, longest / len(response)]
    return [*values, max(response)]


def test_features_of_a_series_computed_by_hand():
    """A step of height 1 at sample 6 of 12. The first kernel has its 2s at places 0, 1, 2, so its response at t is
    2 (x[t-4] + x[t-3] + x[t-2]) - (x[t-1] + ... + x[t+4]): 0, -1, ..., -6, then +3 for each 1 that the 2s reach."""
    x = torch.zeros(1, 1, 12)
    x[..., 6:] = 1
    leads, padded = np.ones((84, 1), bool), np.ones(84, bool)
    layer = rocket.Layer(False, 1, leads, padded, np.tile(np.float32([-2.5, -4.5]), (84, 1)))
    z = rocket.transform(x, [layer]).reshape(84, 7)
    # t      0  1   2   3   4   5   6   7   8   9  10  11: x[t-1..t+4] holds ones, those behind sample 11 are zeros
    response = [0, 0, -1, -2, -3, -4, -5, -6, -3, 0, 3, 4]
    assert list(plain_response(x[0, 0].numpy(), [2, 2, 2, -1, -1, -1, -1, -1, -1], 1, True)) == response
    shares = [7 / 12, np.mean([2.5, 2.5, 1.5, 0.5, 2.5, 5.5, 6.5]), 4 / 12]
    higher = [10 / 12, np.mean([4.5, 4.5, 3.5, 2.5, 1.5, 0.5, 1.5, 4.5, 7.5, 8.5]), 6 / 12]
    np.testing.assert_allclose(z[0], [*shares, *higher, 4], rtol=1e-6)


def test_features_equal_a_plain_loop():
    x = torch.randn(9, 3, 60, generator=torch.Generator().manual_seed(0))
    layers = rocket.draw(x[:5], 4, seed=3)
    assert [(layer.difference, layer.dilation) for layer in layers] == [
        (difference, d) for difference in (False, True) for d in (1, 3, 7)
    ]
    z = rocket.transform(x, layers).reshape(9, len(layers), 84, 7)
    assert z.dtype == np.float32
    for record, number, kernel in ((0, 0, 0), (8, 1, 17), (3, 2, 50), (5, 3, 83), (1, 4, 41), (2, 5, 82)):
        layer = layers[number]
        signal = x[record].numpy()
        signal = np.diff(signal) if layer.difference else signal
        weight = [2 if j in rocket.PLACES[kernel] else -1 for j in range(9)]
        added = signal[layer.leads[kernel]].sum(0)
        response = plain_response(added.astype(float), weight, layer.dilation, layer.padded[kernel])
        expected = plain_statistics(response, layer.thresholds[kernel].astype(float))
        np.testing.assert_allclose(z[record, number, kernel], expected, atol=2e-5)


def test_what_is_drawn():
    x = torch.randn(4, 12, 200, generator=torch.Generator().manual_seed(0))
    one, again, other = rocket.draw(x, 3, 0), rocket.draw(x, 3, 0), rocket.draw(x, 3, 1)
    for a, b, c in zip(one, again, other, strict=True):
        assert np.array_equal(a.leads, b.leads) and np.array_equal(a.thresholds, b.thresholds)
        assert not np.array_equal(a.leads, c.leads)
        assert a.leads.any(1).all() and a.leads.sum(1).max() > 4 and a.padded.sum() == 42
    z = rocket.transform(x, one).reshape(4, len(one), 84, 7)
    shares = z[..., [0, 3]]
    assert 0.3 < shares.mean() < 0.7  # thresholds are quantiles of responses
    assert rocket.dilations(1000, 16)[0] == 1 and rocket.dilations(1000, 16)[-1] == 124
    with pytest.raises(EcgError, match="9 samples"):
        rocket.dilations(8, 16)


def test_longest_stretch():
    above = np.array([[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0]], bool)
    assert rocket.longest_stretch(above).tolist() == [3, 0, 6, 1]
    assert rocket.longest_stretch(above.reshape(2, 2, 6)).tolist() == [[3, 0], [6, 1]]


def test_a_regression_in_turned_coordinates_is_the_regression_on_the_features():
    rng = np.random.default_rng(0)
    z = (rng.standard_normal((60, 15)) @ rng.standard_normal((15, 300)) * np.geomspace(0.1, 9, 300) + 3).astype("f4")
    new, y = z[40:] * 1.1, (rng.random((40, 2)) < 0.4).astype(int)
    turn = classifiers.turned(z[:40], z)
    assert turn(z).shape[1] <= 60
    centre, spread = z[:40].mean(0), z[:40].std(0)
    for c in (1e-4, 1.0):
        (plain,) = classifiers.solve((z[:40] - centre) / spread, y, [c], tol=1e-5)
        (turned,) = classifiers.solve(turn(z[:40]), y, [c], tol=1e-5)
        # what of `new` lies outside the span of z has no weight in the plain regression either
        np.testing.assert_allclose(turned(turn(new)), plain((new - centre) / spread), atol=1e-3)
