"""`clearhead serve` prints an address, serves it to this machine alone, and ends when it is told to."""

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner

import clearhead as ch
from clearhead.cli import main
from clearhead.cli import serve as serving
from clearhead.cli.serve import Reader
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import open_model
from clearhead.view.server.texts import Texts

SHELL = [sys.executable, "-m", "clearhead", "serve"]
TEXT = "The cat sat on the mat because the cat was tired."


@dataclass
class Running:
    """A server, as a process."""

    process: subprocess.Popen[str]
    address: str

    def ask(self, path: str, *, method: str = "GET", body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    def json(self, path: str, **options: Any) -> Any:
        return json.loads(self.ask(path, **options))

    def raw(self, path: bytes, *headers: bytes) -> bytes:
        """The answer to a path as it is, which no library has mended."""
        _, _, host, token, _ = self.address.split("/")
        name, _, port = host.partition(":")
        with socket.create_connection((name, int(port)), timeout=20) as asking:
            first = [b"GET /" + token.encode() + path + b" HTTP/1.1", b"Host: " + host.encode()]
            lines = [*first, *(headers or [b"Connection: close"])]
            asking.sendall(b"\r\n".join([*lines, b"", b""]))
            return b"".join(iter(lambda: asking.recv(65536), b""))


def start(*args: str) -> Running:
    process = subprocess.Popen([*SHELL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"→ (http://\S+/[\w-]{43}/)\n", line)
    assert found, line + (process.communicate()[1] if process.poll() is not None else "")
    return Running(process, found[1])


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A server that may use MiniLM alone."""
    running = start("--model", "minilm", "--tokens", "64")
    yield running
    running.process.kill()
    running.process.communicate()


def refused(*args: str) -> str:
    """The sentence of a command that is refused: exit code 2."""
    result = CliRunner().invoke(main, ["serve", *args])
    assert result.exit_code == 2 and result.stdout == ""
    return result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_text_is_read_by_a_real_model_and_its_numbers_are_those_of_a_watch(running: Running) -> None:
    number = running.json("texts", method="POST", body={"model": "minilm", "text": [TEXT]})["number"]
    end, told = time.monotonic() + 60, {"state": "waiting"}
    while told["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        (told,) = running.json("texts")["texts"]
        time.sleep(0.02)
    assert told["state"] == "ready", told["said"]
    contents = running.json(f"texts/{number}")
    one = open_model("minilm")
    with ch.watch(one.model, one.tokenizer) as seen:
        one.model(**one.inputs(TEXT))
    expected = seen.scene()
    assert contents["texts"] == expected.contents["texts"]
    assert contents["statistics"].keys() == expected.contents["statistics"].keys()
    assert contents["statistics"]["previous_token"][2][3] == pytest.approx(
        expected.contents["statistics"]["previous_token"][2][3], rel=1e-3
    )
    assert contents["title"] == "The cat sat on the mat because the …"
    assert contents["facts"]["Model"] == "minilm (BertModel)"
    block = zlib.decompress(running.ask(f"texts/{number}/layer-2"))
    assert block == zlib.decompress(expected.block("layer-2"))


def test_it_listens_to_this_machine_alone(running: Running) -> None:
    assert running.address.startswith("http://127.0.0.1:")
    port = int(running.address.split(":")[2].split("/")[0])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for other in others - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=2)


@pytest.mark.parametrize(
    "path",
    ["/../page.py", "/..%2f..%2fpage.py", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/x/../serve.js", "/\\..\\x"],
)
def test_no_path_as_it_is_leads_to_a_file(running: Running, path: str) -> None:
    head, _, body = running.raw(path.encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert json.loads(body)["said"] == "There is nothing of that name here."
    assert b"\r\nserver:" not in head.lower()


def test_what_would_be_a_socket_is_answered_as_any_other_request(running: Running) -> None:
    upgrade = [b"Connection: Upgrade, close", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"]
    answer = running.raw(b"/texts", *upgrade, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    assert answer.startswith(b"HTTP/1.1 200") and b'"models":["minilm"]' in answer


def test_a_head_has_a_size(running: Running) -> None:
    with contextlib.suppress(ConnectionResetError):  # it may hang up before all is sent
        assert running.raw(b"/texts", b"X: " + b"a" * 10**6).startswith(b"HTTP/1.1 400")


def test_without_the_token_nothing_is_had(running: Running) -> None:
    bare = "/".join(running.address.split("/")[:3])
    for path in ("", "/texts", "/x" + running.address.split("/")[3] + "/texts"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(bare + path, timeout=20)


def test_a_model_that_was_not_named_is_refused(running: Running) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        running.ask("texts", method="POST", body={"model": "smollm2", "text": [TEXT]})


@pytest.mark.slow
def test_two_servers_have_two_tokens_and_ctrl_c_ends_one_even_while_it_reads() -> None:
    running = start("--model", "minilm")
    other = start("--model", "minilm", "--host", "0.0.0.0")
    assert running.address.split("/")[3] != other.address.split("/")[3]
    running.ask("texts", method="POST", body={"model": "minilm", "text": ["word " * 400]})
    for one in (running, other):
        one.process.send_signal(signal.SIGINT)
    out, err = running.process.communicate(timeout=30)
    assert running.process.returncode == 130
    assert out == "" and err.splitlines() == ["Ctrl-C ends it.", "Stopped."]
    _, err = other.process.communicate(timeout=30)
    assert other.process.returncode == 130
    assert err.startswith("! --host 0.0.0.0: other machines can reach this server, unencrypted.")


@pytest.mark.parametrize(
    ("host", "leads_to", "warns"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.2", False),
        ("localhost", "127.0.0.1", False),
        ("127.evil.example", "0.0.0.0", True),
        ("localhost", "0.0.0.0", True),
        ("0", "0.0.0.0", True),
    ],
)
def test_it_warns_by_where_it_listens_and_not_by_the_name_of_it(
    monkeypatch: pytest.MonkeyPatch, host: str, leads_to: str, warns: bool
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (leads_to, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    result = CliRunner().invoke(main, ["serve", "--host", host])
    assert result.exit_code == 0, result.output
    assert ("other machines can reach this server" in result.stderr) == warns


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--port", str(port))
    assert said == f"Error: --host 127.0.0.1 --port {port}: can't be listened to: {os.strerror(errno.EADDRINUSE)}."
    assert "can't be listened to" in refused("--host", "no.such.host.example.invalid")


@pytest.mark.parametrize(
    ("args", "models"),
    [
        ((), ("smollm2",)),
        (("minilm",), ("minilm",)),
        (("minilm", "smollm2", "--model", "minilm", "--model", "x"), ("minilm", "smollm2", "x")),
    ],
)
def test_models_are_named_as_arguments_or_options(
    monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], models: tuple[str, ...]
) -> None:
    offered = []
    monkeypatch.setattr(serving, "Texts", lambda models, *rest: offered.append(models) or Texts(models, *rest))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    result = CliRunner().invoke(main, ["serve", *args])
    assert result.exit_code == 0, result.output
    assert offered == [models]


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    said = "Error: serve: needs starlette and uvicorn; get it with: pip install 'clearhead[serve]'."
    assert refused() == said


class Steps:
    """What a reader reports."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int | None]] = []
        self.parts = 0

    def begin(self, what: str, total: int | None = None) -> None:
        self.told.append((what, total))

    def advance(self) -> None:
        self.parts += 1


def test_a_reader_reports_each_attention_and_says_what_it_left_out() -> None:
    read, steps = Reader(most=6), Steps()
    scene, taken = read("minilm", (TEXT,), steps, 10**9)
    assert steps.told == [("opening minilm", None), ("watching minilm on 6 tokens", 6), ("counting", None)]
    assert steps.parts == 6 and 0 < taken < 10**6
    assert len(scene.contents["texts"][0]) == 6
    assert scene.contents["facts"]["Text"] == "no more than its first 6 tokens were read (--tokens)"
    again = Steps()
    scene, _ = read("minilm", ("Oh.", "Dear."), again, 10**9)
    assert again.told[0] == ("watching minilm on 6 tokens", 6)  # it is open
    assert scene.contents["title"] == "Oh. · Dear."


def test_a_reader_refuses_what_takes_more_memory_or_context_than_there_is() -> None:
    read = Reader(most=None)
    with pytest.raises(ClearheadError, match="more than 1000 B"):
        read("minilm", (TEXT,), Steps(), 1000)
    with pytest.raises(ClearheadError, match="takes at most 512; shorten the text"):
        read("minilm", ("word " * 600,), Steps(), 10**9)


def test_a_reader_stops_where_its_steps_say_so() -> None:
    class Stop(Steps):
        def advance(self) -> None:
            super().advance()
            if self.parts == 2:
                raise KeyboardInterrupt

    read, steps = Reader(most=None), Stop()
    with pytest.raises(KeyboardInterrupt):
        read("minilm", (TEXT,), steps, 10**9)
    assert steps.parts == 2
    read("minilm", (TEXT,), Steps(), 10**9)  # and can read on
