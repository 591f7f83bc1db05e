"""Takes the pictures of page.md and the README: every view of a page, light and dark. Run it by `make picture`."""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from picture import chromium, take

import clearhead as ch
from clearhead.models.checkpoints import open_model

HERE = Path(__file__).parent
HEAD = "layer=17&head=5&by=induction"
PLACES = {
    "model": "view=model&by=induction",
    "head": f"view=head&{HEAD}&query=24",
    "map": f"view=map&{HEAD}",
    "product": f"view=product&{HEAD}",
    "report": "view=report",
}
PHONE = 360, 800
TEXTS = (
    "The cat sat on the mat. The dog sat on the log. The cat sat on the mat.",
    "The cat sat on the mat. The bird flew to the moon. The cat sat on the mat.",
)


def comparison(path: Path) -> Path:
    """The page of two texts in one model."""
    opened = open_model("smollm2")
    seen = []
    for text in TEXTS:
        with torch.no_grad(), ch.watch(opened.model, opened.tokenizer) as one:
            opened.model(**opened.inputs(text))
        seen.append(one)
    return ch.compare(*seen).page(path, names=("a dog and a log", "a bird and the moon"), facts={"Model": "smollm2"})


def main(page: Path) -> None:
    """All of them."""
    (HERE / "page").mkdir(exist_ok=True)
    with chromium() as chrome, tempfile.TemporaryDirectory() as folder:
        compared = comparison(Path(folder) / "compare.html")
        for theme in ("light", "dark"):
            for view, place in PLACES.items():
                take(chrome, page, f"{place}&theme={theme}", HERE / f"page/{view}-{theme}.png")
            side_by_side = f"view=head&layer=17&head=5&query=15&theme={theme}"
            take(chrome, compared, side_by_side, HERE / f"page/compare-{theme}.png")
        take(chrome, page, f"{PLACES['head']}&theme=light", HERE / "page/phone.png", PHONE)
    shutil.copy(HERE / "page/head-light.png", HERE / "look.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
