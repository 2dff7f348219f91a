"""Dummy weights and inputs against a second writing: what each kind of tensor holds, what the input is made of."""

import hashlib

import numpy as np
import pytest

from ecglib.zoo import dummy


def drawn(key):
    seed = sum(byte << (8 * i) for i, byte in enumerate(hashlib.sha256(key.encode()).digest()[:8]))
    return np.random.Generator(np.random.PCG64(seed))


def test_weights_by_their_names():
    normal = dummy.fill("a.weight", (4, 3, 2)).numpy()
    np.testing.assert_array_equal(normal, (drawn("a.weight").standard_normal((4, 3, 2)) / np.sqrt(6)).astype("float32"))
    wide = dummy.fill("cls", (1, 1, 5)).numpy()  # leading ones do not count
    np.testing.assert_array_equal(wide, (drawn("cls").standard_normal((1, 1, 5)) / np.sqrt(5)).astype("float32"))
    norm = dummy.fill("n.weight", (7,)).numpy()
    np.testing.assert_array_equal(norm, (1 + 0.1 * drawn("n.weight").uniform(-1, 1, size=7)).astype("float32"))
    bias = dummy.fill("n.bias", (7,)).numpy()
    np.testing.assert_array_equal(bias, (0.02 * drawn("n.bias").standard_normal(7)).astype("float32"))
    out = dummy.fill("x.out_proj.weight", (2, 2)).numpy()
    np.testing.assert_allclose(out, 0.3 * drawn("x.out_proj.weight").standard_normal((2, 2)) / np.sqrt(2), rtol=1e-6)
    assert dummy.fill("bn.num_batches_tracked", (), "int64").item() == 0
    assert dummy.fill("quantize.initted", (1,)).tolist() == [1.0]
    assert 0.9 < dummy.fill("logit_scale", ()).item() < 1.1


@pytest.mark.parametrize("rr, b0", [(0.83, 0.31), (0.4, 0.0)])
def test_the_input_is_the_sum_that_its_text_describes(rr, b0):
    fs, n = 100, 300
    t, x, j = np.arange(n) / fs, np.zeros((12, n)), 0
    while b0 + j * rr < n / fs + rr:
        beat = b0 + j * rr + 0.02 * np.sin(1.3 * j)
        for w in range(5):
            height, offset, width = dummy.WAVES[w]
            for c in range(12):
                bump = height * np.exp(-0.5 * ((t - beat - offset) / width) ** 2)
                x[c] += (0.35 + 0.65 * np.cos(0.5 * c + 0.8 * w)) * bump
        j += 1
    for c in range(12):
        x[c] += 0.05 * np.sin(2 * np.pi * 0.31 * t + 0.4 * c)
    x += 0.03 * np.random.Generator(np.random.PCG64(9)).standard_normal((12, n))
    np.testing.assert_allclose(dummy.pseudo_ecg(9, rr, b0, fs, n), x, atol=1e-12)


def test_beats_of_the_two_records():
    first, second = dummy.peaks(100, 1000).tolist()
    assert first == [31, 116, 198, 279, 361, 446, 531, 613, 693, 776, 862, 946]
    assert second == [36, 130, 221, 311, 402, 496, 590, 681, 770, 862, 957, -1]
    assert dummy.records(100, 1000).shape == (2, 12, 1000)
