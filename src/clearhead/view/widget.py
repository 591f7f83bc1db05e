"""The widget: the page in a notebook's cell, by anywidget; JupyterLab, VS Code, Colab and marimo show it."""

import json
from typing import Any

import anywidget
import traitlets

from clearhead.errors import ClearheadError
from clearhead.view import page
from clearhead.view.fitting import saved
from clearhead.view.scene import Scene


class Widget(anywidget.AnyWidget):
    """A scene in a cell: what a saved notebook will still show lies in it, the rest is made when it is looked at.

    `place` is where the reader is, "view=head&layer=3&head=2": it follows, and leads.

    >>> import clearhead as ch, torch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
    >>> with ch.watch(layer) as seen:
    ...     _ = layer(torch.randn(1, 5, 16))
    >>> cell = seen.show()
    >>> cell.place = "layer=0&head=1"
    """

    _esm = page.bundle("widget.js")
    sheet = traitlets.Unicode().tag(sync=True)
    contents = traitlets.Unicode().tag(sync=True)  # JSON: a saved notebook would sort its keys, which have an order
    blocks = traitlets.Dict().tag(sync=True)
    place = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int().tag(sync=True)

    def __init__(self, scene: Scene, *, height: int, budget: int):
        if height < 1:
            raise ClearheadError(f"height: got {height}, expected so many pixels, 1 or more.")
        contents, blocks = saved(scene, budget)
        super().__init__(sheet=page.stylesheet(), contents=json.dumps(contents), blocks=blocks, height=height)
        self.scene = scene
        self.on_msg(self._answer)

    def _answer(self, _: Any, asked: dict[str, Any], __: Any) -> None:
        """Says that the kernel is there, or sends a block."""
        if "there" in asked:
            self.send({"there": True})
            return
        name = str(asked.get("block"))
        try:
            block = self.scene.block(name)
        except ClearheadError as error:
            self.send({"block": name, "said": str(error)})
        else:
            self.send({"block": name}, [block])
