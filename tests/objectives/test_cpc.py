"""The loss of contrastive predictive coding entry by entry; that nothing of the future reaches a prediction."""

import numpy as np
import pytest
import torch

from ecglib import EcgError, models, objectives
from ecglib.objectives import cpc
from ecglib.pipeline import summary


@pytest.fixture(scope="module")
def batch():
    return summary.Sample(6).batch(np.arange(6))


def test_loss_equals_a_plain_computation():
    """Oracle: the softmax over all candidates of one step ahead, one prediction at a time."""
    rng = np.random.default_rng(0)
    predicted, following = rng.normal(size=(2, 3, 5, 4))
    total, right = 0.0, 0
    for k in range(3):
        for i in range(5):
            scores = [sum(predicted[k, i, w] * following[k, j, w] for w in range(4)) for j in range(5)]
            total -= np.log(np.exp(scores[i]) / np.sum(np.exp(scores)))
            right += int(np.argmax(scores) == i)
    loss, accuracy = cpc.info_nce(torch.from_numpy(predicted), torch.from_numpy(following))
    assert float(loss) == pytest.approx(total / 15, rel=1e-5) and float(accuracy) == pytest.approx(right / 15)
    certain = 100 * torch.eye(5).expand(2, 5, 5)
    assert float(cpc.info_nce(certain, certain)[0]) == pytest.approx(0, abs=1e-6)


def test_predictions_are_paired_with_what_follows_by_so_many_steps(batch, monkeypatch):
    """The moments of `randperm`, by hand: record r at moment t against the piece at t + k of the same record."""
    objective = objectives.build("cpc", models.build("s4d", "small", 12), ahead=3, moments=2, width=8).eval()
    seen = []
    monkeypatch.setattr(cpc, "info_nce", lambda *pair: (seen.append(pair), (pair[0].sum(), pair[0].sum()))[1])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n).flip(0))
    with torch.no_grad():
        objective(batch)
        tokens, pieces = objective.encoder.tokens(batch.x), objective.encoder.local(batch.x)
    predicted, following = seen[0]
    n = tokens.shape[1]
    for row, (record, t) in enumerate((r, t) for r in range(6) for t in (n - 4, n - 5)):
        for k in range(3):
            torch.testing.assert_close(predicted[k, row], objective.predict[k](tokens[record, t]), rtol=1e-4, atol=1e-5)
            expected = objective.target(pieces[record, t + k + 1])
            torch.testing.assert_close(following[k, row], expected, rtol=1e-4, atol=1e-5)


def test_tokens_know_nothing_of_later_samples_and_pieces_nothing_of_others(batch):
    net = models.build("s4d", "small", 12).eval()
    changed = batch.x.clone()
    changed[..., 400:] += 1
    with torch.no_grad():
        before, after = net.tokens(batch.x), net.tokens(changed)
        torch.testing.assert_close(before[:, :100], after[:, :100], rtol=1e-4, atol=1e-4)
        assert (before[:, 100:] - after[:, 100:]).abs().max() > 0.1
        different = (net.local(batch.x) != net.local(changed)).any(-1).any(0)
    assert not different[:100].any() and different[100:].all()


def test_what_cannot_be_predicted_is_refused(batch):
    with pytest.raises(EcgError, match="knows? nothing of what follows.*s4d"):
        objectives.build("cpc", models.build("net1d", "small", 12))
    objective = objectives.build("cpc", models.build("s4d", "small", 12), ahead=250)
    with pytest.raises(EcgError, match="250 tokens leave none to predict 250 steps ahead"):
        objective(batch)
