"""The page: one HTML file that holds its style, its scripts and what they show, and asks for nothing else."""

import base64
import hashlib
import html
import json
import os
import posixpath
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from clearhead import atomic_write

WEB = resources.files("clearhead.view") / "web"
STYLES = ("style.css", "head.css", "model.css", "report.css", "comparison.css", "map.css", "product.css")
"""The style sheets, in the order in which they count."""

_IMPORT = re.compile(r'^import \{[^}]*\} from "([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=async|function|const|class)", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*(?:/\*\*(?:[^*]|\*(?!/))*\*/|//.*)[ \t]*\n", re.MULTILINE)
"""A comment on lines without code, which a page does without: a quarter of all its scripts."""


def write(
    path: str | os.PathLike[str], contents: Mapping[str, Any], blocks: Mapping[str, bytes], *, force: bool = False
) -> Path:
    """Writes the page of these contents and blocks (see `Scene`) to `path`, in one step: there is never half a file.

    >>> import tempfile, torch, zlib
    >>> from clearhead.view.contents import contents
    >>> from clearhead.view.payload import LayerView, pack
    >>> layer = LayerView("attn", "self", ["a"], ["a"], torch.zeros(1, 1, 1).int(), torch.ones(1, 1, 1))
    >>> known = contents([layer], title="a", heads=[], facts={"Model": "none"}, share=None, live=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder + "/look.html", known, {"layer-0": zlib.compress(pack(layer))}).name
    'look.html'

    Raises:
        ClearheadError: a folder that isn't there, or without `force` a file that Clearhead did not write.
    """
    return put(path, document(contents["title"], contents, blocks, entry="page.js"), force=force)


def put(path: str | os.PathLike[str], text: str, *, force: bool = False) -> Path:
    """Writes a page's text to `path`, in one step, as `atomic_write` does."""
    path = Path(path)
    # A title may hold a byte that was no text, as Python's surrogateescape has it.
    atomic_write.write(path, text.encode(errors="xmlcharrefreplace"), force=force)
    return path


def document(title: str, contents: object, blocks: Mapping[str, bytes], *, entry: str) -> str:
    """One file out of what it shows, a script of `web/` and the style sheets.

    `web/index.html` with its style sheets and its scripts put in place of the links to them, and a policy
    that lets the browser run this script, use this style and load nothing else. What is shown lies in elements
    that are no scripts: `contents`, as JSON, and the blocks by their names.
    """
    style, script = stylesheet(), bundle(entry)
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    elements = [_block("contents", "application/json", _json(contents))]
    for name, block in blocks.items():
        elements.append(_block(name, "application/octet-stream;base64", base64.b64encode(block).decode()))
    pieces = {
        "<title>Clearhead</title>": f"<title>{html.escape(title)}</title>",
        "<!-- policy -->": f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<link rel="stylesheet" href="style.css">': f"<style>{style}</style>",
        "<!-- payload -->": "\n".join(elements),
        '<script type="module" src="page.js"></script>': f'<script type="module">{script}</script>',
    }
    places = re.compile("|".join(map(re.escape, pieces)))
    return places.sub(lambda place: pieces[place.group()], _read("index.html"))


def served(script: str) -> str:
    """The page for a server that has the style sheet and the script beside it, and a policy of its own."""
    pieces = {"<!-- policy -->\n": "", "<!-- payload -->\n": "", "page.js": script}
    places = re.compile("|".join(map(re.escape, pieces)))
    return places.sub(lambda place: pieces[place.group()], _read("index.html"))


def stylesheet(*more: str) -> str:
    """All style sheets of `web/` as one, and `more` of them that not every page needs."""
    return "\n".join(map(_read, (*STYLES, *more)))


def bundle(entry: str) -> str:
    """One script out of a module of `web/` and all that it imports, each once and after what it imports.

    Browsers refuse to import a file from a `file://` page, so the modules become one: `import` lines and
    the word `export` go, and the top-level names share one scope. Modules are therefore written with
    `import { names } from "./file.js";` and `export` before a declaration, and no name twice. Comments on lines
    without code are left out.
    """
    begun: set[str] = set()
    scripts: list[str] = []

    def add(name: str) -> None:
        if name in begun:
            return
        begun.add(name)
        source = _read(name)
        for wanted in _IMPORT.findall(source):
            add(posixpath.normpath(posixpath.join(posixpath.dirname(name), wanted)))
        scripts.append(f"// {name}\n" + _EXPORT.sub("", _IMPORT.sub("", _COMMENT.sub("", source))))

    add(entry)
    return "\n".join(scripts)


def _read(name: str) -> str:
    return WEB.joinpath(*name.split("/")).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """JSON in ASCII, in which no text can end the script element that holds it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _block(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'
