"""Takes the pictures of page.md and the README: every view of a page, light and dark. Run it by `make picture`."""

import shutil
import sys
from pathlib import Path

from picture import chromium, take

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


def main(page: Path) -> None:
    """All of them."""
    (HERE / "page").mkdir(exist_ok=True)
    with chromium() as chrome:
        for view, place in PLACES.items():
            for theme in ("light", "dark"):
                take(chrome, page, f"{place}&theme={theme}", HERE / f"page/{view}-{theme}.png")
        take(chrome, page, f"{PLACES['head']}&theme=light", HERE / "page/phone.png", PHONE)
    shutil.copy(HERE / "page/head-light.png", HERE / "look.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
