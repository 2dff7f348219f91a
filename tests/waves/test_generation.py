"""Drawn ECGs: the autoencoder, the noising and its reversal, and every score against a plain computation of it."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ecglib import EcgError
from ecglib.evaluation import bootstrap
from ecglib.training.train import Settings
from ecglib.waves import diffusion, generation, lead_reconstruction, vae


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(0)


def waves(n: int, n_times: int = 192, seed: int = 0) -> np.ndarray:
    """Beats at random times in eight leads, each lead a multiple of one wave."""
    random, time = np.random.default_rng(seed), np.arange(n_times)
    first, rr = random.uniform(0, 60, n), random.uniform(50, 90, n)
    at = first[:, None] + rr[:, None] * np.arange(5)
    wave = np.exp(-0.5 * ((time - at[..., None]) / 4) ** 2).sum(1)
    return (wave[:, None] * np.linspace(-1, 2, 8)[:, None]).astype(np.float32)


# The autoencoder.


def test_the_divergence_is_that_of_the_library_and_zero_for_the_prior():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    standard = torch.distributions.Normal(torch.zeros(5, 3), torch.ones(5, 3))
    ours = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(ours, standard)
    torch.testing.assert_close(vae.kl_to_standard(mean, log_variance), expected)
    assert vae.kl_to_standard(torch.zeros(2), torch.zeros(2)).abs().max() == 0


@pytest.mark.parametrize(("size", "n_times"), [("tiny", 192), ("small", 1000)])
def test_a_map_has_one_column_for_eight_samples_and_comes_back_in_shape(size, n_times):
    network = vae.Autoencoder(size, scale=2.0)
    x = torch.randn(3, 8, n_times)
    mean, log_variance = network.encode(x)
    assert mean.shape == log_variance.shape == (3, network.latent, network.n_latent(n_times))
    assert network.n_latent(1000) == 128  # four times 128, as published for 1,024 samples
    assert network.decode(mean, n_times).shape == x.shape


def test_its_loss_is_error_over_the_variance_plus_divergence():
    objective = vae.Objective(vae.Autoencoder("tiny", scale=3.0), beta=0.5)
    x = torch.randn(4, 8, 64)
    torch.manual_seed(1)
    loss, _ = objective(vae.Signals(x))
    torch.manual_seed(1)
    mean, log_variance = objective.encoder.encode(x)
    z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    error = ((objective.encoder.decode(z, 64) - x) ** 2).mean() / 9
    divergence = (0.5 * (mean**2 + log_variance.exp() - log_variance - 1)).mean()
    torch.testing.assert_close(loss, error + 0.5 * divergence)


def test_it_learns_leads_that_it_is_not_shown(tmp_path):
    x, kept = waves(96), lead_reconstruction.kept_leads(["II", "V1", "V5"])
    data = vae.SignalData(x, [str(i) for i in range(96)])
    settings = Settings(steps=60, batch_size=16, lr=0.01)
    network, history = vae.fit(data, settings, "tiny", seen=kept, beta=1e-4)
    assert history.error.iloc[-1] < 0.3 * history.error.iloc[0]
    held = waves(16, seed=1)
    rebuilt = vae.rebuilt(network, held, kept)
    np.testing.assert_array_equal(rebuilt[:, kept], held[:, kept])
    blind = held.copy()
    blind[:, ~kept] = 7  # what it is not shown cannot matter
    np.testing.assert_array_equal(vae.rebuilt(network, blind, kept)[:, ~kept], rebuilt[:, ~kept])
    truth = held - held.mean(-1, keepdims=True)
    assert ((rebuilt - truth)[:, ~kept] ** 2).mean() < 0.5 * (truth[:, ~kept] ** 2).mean()
    vae.save(network, tmp_path / "vae.safetensors")
    again = vae.load(tmp_path / "vae.safetensors")
    np.testing.assert_array_equal(vae.latents(again, held), vae.latents(network, held))


def test_an_autoencoder_goes_on_from_the_weights_of_another():
    data = vae.SignalData(waves(32), [str(i) for i in range(32)])
    first, _ = vae.fit(data, Settings(steps=40, batch_size=16, lr=0.01), "tiny", beta=1e-4)
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    barely = Settings(steps=1, batch_size=16, lr=1e-9)
    kept = lead_reconstruction.kept_leads(["II", "V1", "V5"])
    second, _ = vae.fit(data, barely, "tiny", seen=kept, begins=first)
    assert all(torch.allclose(before[name], tensor, atol=1e-6) for name, tensor in second.state_dict().items())
    trained, _ = vae.fit(data, Settings(steps=5, batch_size=16, lr=0.01), "tiny", seen=kept, begins=first)
    assert all(torch.equal(before[name], tensor) for name, tensor in first.state_dict().items())
    assert not torch.equal(before["down.0.weight"], trained.state_dict()["down.0.weight"])


def test_bad_signals_and_files_are_refused(tmp_path):
    with pytest.raises(EcgError, match=r"\[x\].*shape \(2, 12, 50\)"):
        vae.SignalData(np.zeros((2, 12, 50), np.float32), ["a", "b"])
    with pytest.raises(EcgError, match="did you mean 'small'"):
        vae.Autoencoder("smal")
    with pytest.raises(EcgError, match="scale=0"):
        vae.Autoencoder("tiny", scale=0)
    diffusion.save(diffusion.Denoiser(2, 2, size="tiny"), ["A", "B"], tmp_path / "d.safetensors")
    with pytest.raises(EcgError, match="no autoencoder"):
        vae.load(tmp_path / "d.safetensors")


# Noising and its reversal.


def conditions(n: int, n_labels: int = 2, seed: int = 0) -> diffusion.Conditions:
    random = np.random.default_rng(seed)
    numbers = np.stack([random.uniform(20, 90, n), random.integers(0, 2, n), random.uniform(50, 120, n)], 1)
    return diffusion.Conditions(random.integers(0, 2, (n, n_labels)).astype(np.float32), numbers.astype(np.float32))


def test_the_schedule_is_the_published_cosine_from_signal_to_noise():
    steps = torch.tensor([0.0, 250.0, 500.0, 1000.0])
    f = [np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2 for t in steps.tolist()]
    np.testing.assert_allclose(diffusion.signal_share(steps), np.array(f) / f[0], atol=1e-6)
    z, noise = torch.randn(4, 2, 8), torch.randn(4, 2, 8)
    x, velocity = diffusion.noised(z, noise, steps)
    share = diffusion.signal_share(steps)[:, None, None]
    torch.testing.assert_close(share.sqrt() * x - (1 - share).sqrt() * velocity, z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((1 - share).sqrt() * x + share.sqrt() * velocity, noise, atol=1e-5, rtol=1e-5)


def test_the_loss_is_that_of_the_velocity():
    network = diffusion.Denoiser(2, 2, size="tiny")
    torch.nn.init.normal_(network.out.weight)
    network.centre.fill_(0.5), network.spread.fill_(2.0)
    data = diffusion.MapData(np.random.default_rng(0).normal(size=(6, 2, 16)), conditions(6), list("abcdef"))
    batch = data.batch(np.arange(6))
    torch.manual_seed(3)
    loss, _ = diffusion.Objective(network, drop=0.5)(batch)
    torch.manual_seed(3)
    step = torch.randint(1, 1001, (6,))
    given, noise = torch.rand(6) >= 0.5, torch.randn(6, 2, 16)
    f = (torch.cos((step / 1000 + 0.008) / 1.008 * torch.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2))[:, None, None]
    clean, rest = (batch.z - 0.5) / 2, (1 - f**2).clamp_min(0).sqrt()
    said = network(f * clean + rest * noise, step, batch.statements, batch.numbers, given)
    expected = ((said - (f * noise - rest * clean)) ** 2).mean()
    assert 0 < given.sum() < 6
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_with_the_exact_velocity_of_a_normal_distribution_noise_becomes_its_draw():
    """For data N(m, s^2) the path without noise is known: z_0 = m + s (z_T - a m) / sqrt(a^2 s^2 + 1 - a^2)."""
    m, s = 1.5, 0.4

    def exact(z, step):
        share = diffusion.signal_share(step)[:, None, None]
        a, b = share.sqrt(), (1 - share).sqrt()
        clean = m + a * s**2 / (a**2 * s**2 + b**2) * (z - a * m)  # its mean, given z
        return (a * z - clean) / b

    z = torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = np.linspace(1000, 0, 801)
    found = diffusion.ddim(exact, z, steps)
    share = float(diffusion.signal_share(torch.tensor(1000.0)))
    expected = m + s * (z - share**0.5 * m) / np.sqrt(share * s**2 + 1 - share)
    assert (found - expected).abs().max() < 0.01
    coarse = diffusion.ddim(exact, z, np.linspace(1000, 0, 101))
    assert (found - expected).abs().mean() < 0.2 * (coarse - expected).abs().mean()


def test_guidance_goes_from_nothing_told_through_what_is_told_and_beyond():
    network = diffusion.Denoiser(2, 2, size="tiny")
    torch.nn.init.normal_(network.out.weight)
    for layer in (*network.down, *network.middle, *network.up):
        torch.nn.init.normal_(layer.film.weight)
    asked = diffusion.Maps(torch.zeros(3, 2, 16), *map(torch.from_numpy, conditions(3)))
    z, step = torch.randn(3, 2, 16), torch.full((3,), 400.0)
    with torch.no_grad():
        none, told, twice = (diffusion.guided(network, asked, weight)(z, step) for weight in (0.0, 1.0, 2.0))
        silent = network(z, step, asked.statements, asked.numbers, torch.zeros(3, dtype=torch.bool))
        other = network(z, step, 1 - asked.statements, asked.numbers + 9, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(none, silent)
    torch.testing.assert_close(silent, other)  # who is told nothing hears nothing
    torch.testing.assert_close(twice, none + 2 * (told - none), rtol=1e-4, atol=1e-4)
    assert (told - none).abs().max() > 0.01


def test_what_is_not_known_is_not_told():
    network = diffusion.Denoiser(2, 2, size="tiny")
    asked = conditions(2)
    asked.numbers[:, 2] = np.nan
    numbers = torch.from_numpy(asked.numbers)
    codes = network.beats(numbers, numbers.isfinite(), 12)
    assert codes.shape == (2, 4, 12) and codes.abs().max() == 0
    numbers = torch.tensor([[50.0, 1.0, 75.0]])  # a beat every ten columns of 80 ms
    codes = network.beats(numbers, numbers.isfinite(), 21)
    torch.testing.assert_close(codes[..., 0], codes[..., 10], atol=1e-5, rtol=0)
    torch.testing.assert_close(codes[0, 2, 5], torch.tensor(-1.0), atol=1e-5, rtol=0)


def test_a_network_learns_which_map_belongs_to_which_statement(tmp_path):
    random = np.random.default_rng(0)
    asked = conditions(256)
    z = (2 * asked.statements[:, :1, None] - 1) + 0.1 * random.normal(size=(256, 2, 16))
    data = diffusion.MapData(z, asked, [str(i) for i in range(256)])
    settings = Settings(steps=80, batch_size=64, lr=0.01, average=0.9)
    network, _ = diffusion.fit(data, settings, "tiny")
    drawn = diffusion.sample(network, asked, 16, seed=1, n_steps=8, guidance=1.0)
    assert drawn.shape == z.shape
    assert np.corrcoef(drawn.mean((1, 2)), asked.statements[:, 0])[0, 1] > 0.8
    np.testing.assert_array_equal(drawn, diffusion.sample(network, asked, 16, seed=1, n_steps=8, guidance=1.0))
    near = diffusion.sample(network, asked, 16, start=z.astype(np.float32), strength=0.05, n_steps=40)
    assert abs(near - z).mean() < 0.5 * abs(drawn - z).mean()
    diffusion.save(network, ["A", "B"], tmp_path / "d.safetensors")
    again, labels = diffusion.load(tmp_path / "d.safetensors")
    assert labels == ["A", "B"]
    np.testing.assert_array_equal(
        diffusion.sample(again, asked, 16, n_steps=2), diffusion.sample(network, asked, 16, n_steps=2)
    )


def test_a_wrong_start_and_maps_without_conditions_are_refused(tmp_path):
    network, asked = diffusion.Denoiser(2, 2, size="tiny"), conditions(3)
    start = np.zeros((3, 2, 16), np.float32)
    with pytest.raises(EcgError, match=r"\[strength\] strength=1.5"):
        diffusion.sample(network, asked, 16, start=start, strength=1.5)
    with pytest.raises(EcgError, match=r"\[start\].*one map for each"):
        diffusion.sample(network, asked, 16, start=start[:2], strength=0.5)
    with pytest.raises(EcgError, match="2 maps with 3 conditions"):
        diffusion.MapData(start[:2], asked, ["a", "b"])
    vae.save(vae.Autoencoder("tiny"), tmp_path / "v.safetensors")
    with pytest.raises(EcgError, match="no denoiser"):
        diffusion.load(tmp_path / "v.safetensors")


# Scores.


def test_frechet_distance_is_that_of_a_plain_matrix_root(random):
    z, other = random.normal(size=(60, 5)) @ random.normal(size=(5, 5)), random.normal(size=(80, 5)) + 0.3
    s1, s2 = np.cov(z.T), np.cov(other.T)
    expected = ((z.mean(0) - other.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    np.testing.assert_allclose(generation.frechet(z, other), expected, rtol=1e-8)
    np.testing.assert_allclose(generation.frechet(other, z), expected, rtol=1e-8)
    assert abs(generation.frechet(z, z)) < 1e-9


def test_frechet_distance_of_commuting_covariances_is_that_of_their_roots(random):
    z = random.normal(size=(50, 4))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T)).T)  # covariance: the identity
    a, b = np.array([1.0, 2.0, 0.5, 3.0]), np.array([2.0, 2.0, 1.5, 0.0])
    found = generation.frechet(z * a + 1, z * b)
    np.testing.assert_allclose(found, 4 + ((a - b) ** 2).sum(), rtol=1e-9)
    with pytest.raises(EcgError, match="features of shapes"):
        generation.frechet(z, z[:, :3])


def test_the_jackknife_has_the_textbook_error_of_a_mean_and_the_spread_of_a_distance(random):
    values = random.normal(size=40)
    left = np.array([np.delete(values, i).mean() for i in range(40)])
    np.testing.assert_allclose(generation._jackknife(left), values.std(ddof=1) / np.sqrt(40), rtol=1e-9)
    tables = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        sets = {"same": random.normal(size=(100, 3)), "moved": random.normal(size=(100, 3)) + 0.5}
        people, reference = dict.fromkeys(sets, np.arange(100)), random.normal(size=(100, 3))
        tables.append(generation.frechet_table(sets, people, reference, np.arange(1000, 1100)).set_index("set"))
    points = np.array([table.loc["moved", "frechet"] for table in tables])
    errors = np.array([(table.loc["moved", "high"] - table.loc["moved", "low"]) / 3.92 for table in tables])
    assert 0.7 < errors.mean() / points.std() < 1.4  # what is said of one draw is how draws differ
    covered = [table.loc["moved", "low"] < 0.75 < table.loc["moved", "high"] for table in tables]  # 3 x 0.5^2
    assert np.mean(covered) > 0.8
    assert all(table.loc["same", "change"] == 0 for table in tables)
    assert np.mean([table.loc["moved", "change_low"] > 0 for table in tables]) > 0.75


def test_the_nearest_conditions_are_found():
    numbers = np.array([[50, 1, 60], [50, 1, 90], [np.nan, np.nan, 60]], np.float32)
    asked = diffusion.Conditions(np.array([[1, 0], [0, 1], [0, 0]], np.float32), numbers)
    offered = diffusion.Conditions(np.array([[0, 1], [1, 0], [1, 0], [0, 0]], np.float32), numbers[[1, 0, 1, 0]])
    assert generation.matched(asked, offered).tolist() == [1, 0, 3]


def test_rates_are_measured_and_their_errors_are_means_over_records():
    time = np.arange(1000) / 100
    beats = [np.arange(0.5, 9.8, 60 / rate) for rate in (60, 100)]
    wave = np.stack([np.exp(-0.5 * ((time[:, None] - at) / 0.015) ** 2).sum(1) for at in beats])
    x = (wave[:, None] * np.linspace(0.5, 1.5, 8)[:, None]).astype(np.float32)
    np.testing.assert_allclose(generation.heart_rates(generation.r_peaks(x, 100), 100), [60, 100], rtol=0.02)
    assert (generation.r_peaks(np.zeros((2, 8, 1000), np.float32), 100) == -1).all()
    peaks = np.array([[100, 200, 300, -1], [5, -1, -1, -1]])
    np.testing.assert_array_equal(generation.heart_rates(peaks, 100), [60, np.nan])
    asked = np.array([60.0, 80.0, 70.0, np.nan])
    table = generation.rate_table(asked, {"a": np.array([62.0, 60.0, np.nan, 70.0])}, np.arange(4), 50).iloc[0]
    assert (table.records, table.error, table.near, table.with_beats) == (3, 11.0, 1 / 3, 2 / 3)
    assert table.error_low <= 11 <= table.error_high


def test_sets_that_differ_are_told_apart_and_others_are_not(random):
    real, same, other = random.normal(size=(200, 4)), random.normal(size=(200, 4)), random.normal(size=(200, 4)) + 1
    cell = (True, 1.0, False)
    ids = np.arange(200), np.arange(500, 700)
    apart = generation.told_apart(other, ids[0], real, ids[1], cell, 100)
    chance = generation.told_apart(same, ids[0], real, ids[1], cell, 100)
    assert apart.point > 0.9 and chance.low < 0.5 < chance.high + 0.05


def test_a_probe_of_drawn_records_is_paired_with_one_of_recorded_ones(random):
    y = random.integers(0, 2, (200, 2)).astype(float)
    z = y + 0.3 * random.normal(size=(200, 2))
    sets = {"recorded": (z[:100], y[:100]), "shuffled": (z[:100], y[random.permutation(100)])}
    said = generation.trained_on(sets, z[100:], (True, 1.0, False))
    scores = {name: bootstrap.bootstrap(y[100:], p, np.arange(100), 100) for name, p in said.items()}
    table = generation.score_table(scores).set_index("set")
    assert table.loc["recorded", "auroc"] > 0.95 and table.loc["shuffled", "change_high"] < 0
    expected = scores["shuffled"].replicates - scores["recorded"].replicates
    np.testing.assert_allclose(table.loc["shuffled", "change_low"], np.quantile(expected, 0.025))


def test_copies_are_nearer_than_new_records(random):
    library, held, new = (random.normal(size=(150, 3)) * [1, 5, 2] for _ in range(3))
    spread = library.std(0)
    expected = [min(np.sqrt((((one - row) / spread) ** 2).sum()) for row in library) for one in held[:5]]
    np.testing.assert_allclose(generation.nearest_distances(held[:5], library), expected, rtol=1e-9)
    copied = library[:150] + 0.01 * random.normal(size=(150, 3))
    found = {name: generation.nearest_distances(z, library) for name, z in (("new", new), ("copies", copied))}
    people = dict.fromkeys(found, np.arange(150))
    apart = generation.nearest_distances(held, library)
    table = generation.copies_table(found, people, apart, np.arange(200, 350), 100).set_index("set")
    assert table.loc["copies", "nearer"] > 0.95 and table.loc["new", "low"] < 0.5 < table.loc["new", "high"]
    pairs = (found["new"][:, None] < apart).mean()
    np.testing.assert_allclose(table.loc["new", "nearer"], pairs, atol=1e-9)
