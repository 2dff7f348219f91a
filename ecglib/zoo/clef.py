"""CLEF (arXiv 2512.02180): Net1D on one lead, SimCLR whose negatives count by the difference of cardiovascular risk."""

from ecglib.cards import Card, Model
from ecglib.encoders import net1d

SIZES = {"clef_small": "clef_small", "clef_medium": "medium", "clef_large": "large"}  # card -> size of net1d
FACTS = dict(
    paper="arXiv 2512.02180",
    repository="Nokia-Bell-Labs/ecg-foundation-model",
    licence="BSD 3-Clause Clear (an earlier state of the repository: BSD 3-Clause)",
    leads=("I",),
    profile="clef",
    crop_s=10,
    short="masked",
    corpora=("mimic-iv-ecg",),
    hub="zenodo",
    place="17572734",
    said="paper and code agree on band and z-score; the code normalises after its augmentations, here there are none. "
    "It was trained on any of the twelve leads and takes each of them; lead I is fed. PTB-XL was evaluated from 100 Hz "
    "recordings taken up to 500 Hz",
    defects=(
        "the published loader is not strict: without taking off 'backbone.' nothing loads and nothing is said",
        "a missing risk counts as no risk in the released training",
        "augmented limb leads met the noise of another channel, since lead names are compared with their case",
        "seven 'held-out' data sets include a label set of the pretraining corpus",
    ),
    scaling="lead",
    entry=("state_dict",),
)


def _card(name, title, parameters, stored, dim, tokens, file):
    pooling = f"mean over the {tokens} time steps of the last stage, {dim:,} values"
    return Card(name=name, title=title, parameters=parameters, stored=stored, dim=dim, pooling=pooling, files=(file,),
                pack=name, **FACTS)  # fmt: skip


CARDS = (
    _card("clef_small", "CLEF small", 443_184, 447_792, 256, 40, "clef_small.ckpt"),
    _card("clef_medium", "CLEF medium", 30_587_632, 30_654_000, 1024, 20, "clef_medium.ckpt"),
    _card("clef_large", "CLEF large", 296_301_312, 296_623_360, 2048, 5, "clef_largel.ckpt"),  # spelled so there
)


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = net1d.Encoder(1, **net1d.SIZES[SIZES[card.name]])

    def rename(self, state):
        return {key.replace("backbone.", "", 1): value for key, value in super().rename(state).items()}

    def convert(self, state):
        return {f"encoder.{key}": value for key, value in net1d.from_published(state).items()}
