"""`clearhead serve`: the page of any text that is typed into it, from a server on this machine."""

import ipaddress
import secrets
import socket
import warnings
import webbrowser
from importlib.util import find_spec

import click

from clearhead.cli import reading
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope.byte_sizes import in_bytes
from clearhead.view.progress import Progress
from clearhead.view.scene import Scene
from clearhead.view.server.texts import Texts, title

LOOPBACK = "127.0.0.1"
CONNECTIONS = 100
"""More at a time are refused; a page has six."""


def run(models: tuple[str, ...], most: int | None, memory: str, host: str, port: int, opens: bool) -> None:
    """Serves the page until Ctrl-C; its readers choose among the models."""
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise ClearheadError(f"serve: needs {' and '.join(missing)}; get it with: pip install 'clearhead[serve]'.")
    import uvicorn  # optional, as what follows

    from clearhead.view.server.app import application
    from clearhead.view.server.connection import Connection
    from clearhead.view.server.guard import Hosts

    room = in_bytes(memory, "--memory")
    with _listening(host, port) as listening:
        bound, port = listening.getsockname()[:2]
        token = secrets.token_urlsafe()
        app = application(Texts(models, Reader(most), room), token=token, hosts=Hosts(host, port))
        name = f"[{host}]" if ":" in host else LOOPBACK if host == "0.0.0.0" else host
        address = f"http://{name}:{port}/{token}/"
        if not ipaddress.ip_address(bound).is_loopback:
            click.echo(
                f"! --host {host}: other machines can reach this server, unencrypted. Whoever has the address below "
                "can have texts read, and see those of others.",
                err=True,
            )
        click.echo(f"→ {address}")
        click.echo("Ctrl-C ends it.", err=True)
        if opens:
            webbrowser.open(address)
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,  # it would hold the token
            http=Connection,
            ws="none",
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listening])


class Reader:
    """Has models read texts, `most` tokens of each, and keeps the models open."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._opened: dict[str, Opened] = {}

    def __call__(self, name: str, texts: tuple[str, ...], steps: Progress, memory: int) -> tuple[Scene, int]:
        """What is to be seen, and how much memory it takes, which is no more than `memory`."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            if name not in self._opened:
                self._opened[name] = open_model(name, report=steps.begin)
            opened = self._opened[name]
            inputs = reading.inputs(opened, texts, self._most)
            seen = reading.watched(opened, inputs, steps, "qk", memory)
        facts = {"Model": f"{opened.name} ({opened.architecture})"}
        if inputs["input_ids"].shape[1] == self._most:
            facts["Text"] = f"no more than its first {self._most:,} tokens were read (--tokens)"
        if warned:
            facts["Warnings"] = " ".join(dict.fromkeys(str(warning.message) for warning in warned))
        steps.begin("counting")
        scene = seen.scene(title=title(texts), facts=facts)
        _ = scene.contents  # now, so that the page need not wait for it
        assert seen.budget is not None
        return scene, seen.budget.used


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]  # after which come Python's own words
        raise ClearheadError(f"--host {host} --port {port}: can't be listened to: {why}.") from error
