"""ST-MEM (ICLR 2024): a card alone. Its owners forbid what goes beyond the licence without their consent."""

from ecglib.cards import Card
from ecglib.signals import LEADS

CARDS = (
    Card(
        name="stmem",
        title="ST-MEM ViT-B/75",
        paper="OpenReview WcOohbsF4H; ICLR 2024",
        repository="bakqui/ST-MEM",
        licence="CC BY-NC 4.0",
        commercial=False,
        parameters=85_150_614,
        stored=85_150_614,
        dim=768,
        leads=LEADS,
        profile="stmem",
        crop_s=9,
        short="masked",
        pooling="not described here",
        corpora=("chapman", "ningbo", "code-15"),
        hub="hand",
        place="the Google Drive links of the repository's README",
        files=("st_mem_vit_base_encoder.pth", "st_mem_vit_base_full.pth"),
        said="the repository carries different licence texts in its history; the strictest is taken",
        defects=("keys and shapes come from a description of the modules and were not checked against a file",),
        pack="stmem_vit_base",
        scaling="record",
        entry=("model",),
        only_card="VUNO reserves all rights beyond its licence, so that neither its function nor its weights are here",
    ),
)
