"""Networks for delineation, trained on one corpus or on one after another, asked about patients they have not met."""

from dataclasses import dataclass, replace

import numpy as np

from ecglib import EcgError, require_known
from ecglib.training.train import Settings
from ecglib.waves import delineation, delineation_net, delineation_scores, marked, peers
from ecglib.waves.marked import WAVES, Marked, Waves

CANDIDATES = tuple(float(share) for share in np.arange(0.2, 0.81, 0.05).round(2))  # thresholds
MEDIAN_BEAT, OF_ALL_LEADS, SECOND = "median beat", "median beat, all leads", "second reader"
PLAN = ("learned", "held", "steps", "lr", "begins")


@dataclass(frozen=True, eq=False)
class Trained:
    """A network and its thresholds (wave -> probability)."""

    network: delineation_net.DelNet
    thresholds: dict

    def called(self, one: Marked) -> list[Waves]:
        """Waves of each lead where the leads have marks of their own, else of all leads together, in a list of one."""
        return as_marked(one, delineation_net.probabilities(self.network, one.signal), self.thresholds)


def as_marked(one: Marked, p: np.ndarray, thresholds: dict) -> list[Waves]:
    """Probabilities (lead, 3, time) as waves of each lead, or of all together, as the recording is marked; without the
    P waves of blocks where they are unlike one another (`delineation.stray_p`)."""
    together = delineation.fused(p, thresholds)
    blocks = delineation.stray_p(one.signal, together)
    if not one.per_lead:
        return [delineation.without_p(together, blocks)]
    each = [delineation.waves(lead, thresholds) for lead in delineation.with_other_leads(p)]
    return [delineation.without_p(found, blocks) for found in each]


def by_median_beat(one: Marked) -> list[Waves]:
    """`delineation.by_median_beat` of each lead alone, or of all together, as the recording is marked."""
    return [delineation.by_median_beat(x) for x in (one.signal[:, None] if one.per_lead else one.signal[None])]


def check_plans(plans: dict[str, dict], judged: dict[str, dict], size: str, loss: str) -> None:
    """Raise EcgError for what cannot be trained: an unknown key, corpus, size or loss, a network that begins with none
    before it. plans: as of `train_all`; judged: name -> source."""
    require_known("size", [size], delineation_net.SIZES)
    require_known("loss", [loss], delineation_net.LOSSES)
    if not plans:
        raise EcgError("no network is planned", field="networks", fix="name one with its keys learned and held")
    for name, plan in plans.items():
        require_known(f"key of {name}", list(plan), PLAN, "networks")
        missing = [key for key in PLAN[:2] if key not in plan]
        if missing:
            raise EcgError(f"{name} has no {missing[0]}", field="networks", fix="name a source: corpus, root, splits")
        if "begins" in plan:
            before = list(plans)[: list(plans).index(name)]
            require_known("network", [plan["begins"]], before, f"networks, begins of {name}")
    sources = [plan[key] for plan in plans.values() for key in PLAN[:2]]
    for source in (*sources, *judged.values()):
        require_known("corpus", [source.get("corpus")], marked.CORPORA)


def read(sources: dict) -> dict[str, list[Marked]]:
    """The recordings of each source (name -> options of `marked.recordings`)."""
    return {name: list(marked.recordings(**source)) for name, source in sources.items()}


def check_apart(plans: dict[str, dict], taught: dict, judged: dict[str, dict], asked: dict) -> None:
    """Raise EcgError where a network is to be judged on a patient whose recordings taught it or chose its thresholds.

    taught, asked: recordings by name, of the plans and of the sources in judged.
    """
    met = {}
    for name, recordings in taught.items():
        corpus = _corpus(plans[name]["learned"])
        met.setdefault(corpus, set()).update(one.patient_id for one in recordings)
    for name, source in judged.items():
        both = met.get(_corpus(source), set()) & {one.patient_id for one in asked[name]}
        if both:
            raise EcgError(
                f"{len(both)} patients of {name} have taught a network, {min(both)} among them",
                field="judged",
                fix="name splits that are apart",
            )


def _corpus(source: dict) -> tuple:
    return source["corpus"], source.get("hospital", "A")


def train_all(plans: dict[str, dict], learned: dict, held: dict, settings: Settings, size="small", loss="jaccard"):
    """A network for each plan, in their order; returns {name: Trained}.

    plans: name -> sources learned and held, and where they differ from settings or from random weights: steps, lr, and
    begins, the name of an earlier network; learned, held: their recordings by name.
    """
    trained = {}
    for name, plan in plans.items():
        steps, lr = plan.get("steps", settings.steps), plan.get("lr", settings.lr)
        own = replace(settings, steps=steps, lr=lr, warmup=max(1, steps // 12))
        begins = trained[plan["begins"]].network if "begins" in plan else None
        trained[name] = train(learned[name], held[name], own, size, loss, begins)
    return trained


def train(recordings, held: list[Marked], settings: Settings, size="small", loss="jaccard", begins=None) -> Trained:
    """One network of the recordings, with the `best_thresholds` of those `held`; begins: as of `delineation_net.fit`.

    Raises EcgError without any recording that is held.
    """
    if not held:
        raise EcgError("no recording to choose thresholds on", field="held", fix="hold patients out")
    network, _ = delineation_net.fit(recordings, settings, size, loss, begins)
    p = [delineation_net.probabilities(network, one.signal) for one in held]
    return Trained(network, best_thresholds(held, p))


def best_thresholds(recordings: list[Marked], probabilities: list[np.ndarray]) -> dict[str, float]:
    """The one of CANDIDATES at which the called samples of each wave overlap the marked ones most (Dice), over all
    leads. probabilities: (lead, 3, time) of each recording."""
    both, total = (np.zeros((len(CANDIDATES), len(WAVES))) for _ in range(2))
    for one, p in zip(recordings, probabilities, strict=True):
        _, masks, valid = delineation_net.lead_masks(one, p.shape[-1])
        truth = (masks * valid).astype(bool)
        p = delineation.with_other_leads(p) if one.per_lead else p
        for row, threshold in enumerate(CANDIDATES):
            called = (p >= threshold) & valid.astype(bool)
            both[row] += (called & truth).sum(axis=(0, 2))
            total[row] += called.sum(axis=(0, 2)) + truth.sum(axis=(0, 2))
    best = (both / np.maximum(total, 1)).argmax(axis=0)
    return {wave: CANDIDATES[row] for wave, row in zip(WAVES, best, strict=True)}


def calls(one: Marked, trained: dict, others: list[str] | tuple = ()) -> dict[str, list[Waves]]:
    """What every way of finding waves says of a recording: the networks by name, the median beat, and `peers.PEERS`
    that are named in others, with gaps and splinters treated as the networks' own.

    Where leads have marks of their own, there are also the marks of the median beat of all leads, the same for each.
    """
    found = {name: network.called(one) for name, network in trained.items()}
    found[MEDIAN_BEAT] = by_median_beat(one)
    if one.per_lead:
        found[OF_ALL_LEADS] = [delineation.by_median_beat(one.signal)] * len(one.leads)
    for name in others:
        p = peers.masks(name, one.signal)
        found[name] = [delineation.waves(each) for each in p] if one.per_lead else [delineation.fused(p)]
    return found


def scored(one: Marked, found: dict[str, list[Waves]]) -> list[dict]:
    """`delineation_scores.of_recording` of each, with `method`; the second reader, where there is one, among them."""
    rows = [
        {"method": name} | row for name, waves in found.items() for row in delineation_scores.of_recording(one, waves)
    ]
    again = delineation_scores.second_reader(one) if one.second else []
    return rows + [{"method": SECOND} | row for row in again]
