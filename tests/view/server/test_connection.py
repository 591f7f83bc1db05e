"""A connection on which nothing arrives in time is closed; one whose answer takes its time is not."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from clearhead.view.server import connection
from clearhead.view.server.connection import Connection

PATIENCE = 0.3
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n"


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await asyncio.sleep(4 * PATIENCE if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(connection, "PATIENCE", PATIENCE)
    config = uvicorn.Config(answers, http=Connection, ws="none", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        with socket.create_connection(listening.getsockname(), timeout=10) as connected:
            yield connected
        server.should_exit = True
        thread.join()


def closed(connected: socket.socket, dribble: bytes = b"") -> bytes:
    """What comes until it is closed, while some bytes go there one by one."""
    connected.settimeout(PATIENCE / 10)
    got, end = b"", time.monotonic() + 4
    while time.monotonic() < end:
        try:
            connected.sendall(dribble[:1])
            dribble = dribble[1:]
            part = connected.recv(1000)
            if not part:
                return got
            got += part
        except TimeoutError:
            pass
        except OSError:
            return got
    raise AssertionError("it is still open")


@pytest.mark.parametrize("sent", [b"", GET % b"" + b"X: " + b"a" * 1000], ids=["nothing", "byte by byte"])
def test_who_asks_nothing_in_time_is_hung_up_on(connected: socket.socket, sent: bytes) -> None:
    assert closed(connected, sent) == b""


def test_so_is_who_asks_once_and_then_byte_by_byte(connected: socket.socket) -> None:
    connected.sendall(GET % b"" + b"\r\n")
    assert closed(connected, GET % b"" + b"X: " + b"a" * 1000).endswith(b"ok")


def test_an_answer_may_take_longer(connected: socket.socket) -> None:
    connected.sendall(GET % b"slow" + b"Connection: close\r\n\r\n")
    assert closed(connected).endswith(b"ok")
