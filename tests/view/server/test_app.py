"""The server answers those who know its token, asked by its name, in bounds; and says in a sentence what it refuses."""

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from torch import nn

import clearhead as ch
from clearhead.errors import ClearheadError
from clearhead.view.progress import Progress
from clearhead.view.scene import Scene
from clearhead.view.server import app as serving
from clearhead.view.server.app import application
from clearhead.view.server.guard import HEADERS, Hosts
from clearhead.view.server.texts import Texts

TOKEN = "t0ken-that-nobody-guesses"
HERE = "http://127.0.0.1:8000"
ATTACK = "</script><script>alert(1)</script>"
MEMORY = 10**6
TRICKS = [
    "../page.py",
    "..%2fpage.py",
    "%2e%2e/%2e%2e/etc/passwd",
    "web/app.js",
    "serve.js/",
    "/etc/passwd",
    "index.html",
    "serve.css",
    "texts/1/..%2f..%2fserve.js",
    "texts/1/../../style.css%00",
    "texts/-1",
    "texts/one",
    "style.css/../x",
    "texts/١",  # a digit, in Arabic
    "texts/" + "9" * 400,
    "ｔexts",
    "texts⧸1",
]
OTHER_NAMES = [
    "evil.example:8000",
    "evil.example",
    "127.0.0.1",
    "127.0.0.1:80",
    "localhost:8001",
    "192.168.0.1:8000",
    "",
    "localhost.:8000",
    "127.0.0.1:8000.",
    "127.0.0.1:08000",
    "127.0.0.1:8000:8000",
    "127.0.0.1:8000, evil.example",
    "127.0.0.1.evil.example:8000",
    "me@127.0.0.1:8000",
    "2130706433:8000",
    "[::ffff:127.0.0.1]:8000",
]
NO_WISHES = [
    "",
    "{",
    "[]",
    "1",
    "{}",
    '{"model": "tiny"}',
    '{"model": "tiny", "text": "abc"}',
    '{"model": 1, "text": ["a"]}',
    '{"model": "tiny", "text": []}',
    '{"model": "tiny", "text": ["a", "b", "c"]}',
    '{"model": "tiny", "text": [1]}',
    '{"model": "tiny", "text": ["\\ud800"]}',
    '{"model": "tiny", "text": [" "]}',
    '"ÿ',
    '{"model": "tiny", "text": [' + "9" * 5000 + "]}",
    '{"model": "tiny", "text": ["a", NaN]}',
    '{"model": ["tiny"], "text": ["a"]}',
]


def scene(texts: tuple[str, ...]) -> Scene:
    """As many tokens as characters, their meaning at random."""
    model = nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
    with ch.watch(model) as seen:
        model(torch.randn(1, len("".join(texts)), 16))
    return seen.scene(title=" · ".join(texts))


class Model:
    """Reads at once, or goes on from step to step as it is let."""

    def __init__(self) -> None:
        self.step = threading.Semaphore(0)
        self.slow = False
        self.takes = 1000
        self.scenes: dict[tuple[str, ...], Scene] = {}

    def __call__(self, name: str, texts: tuple[str, ...], steps: Progress, memory: int) -> tuple[Scene, int]:
        assert memory == MEMORY
        steps.begin(f"watching {name}", 3)
        for _ in range(3):
            if self.slow:
                self.step.acquire(timeout=10)
            steps.advance()
        if texts == ("too long",):
            raise ClearheadError("The text is too long.")
        if texts == ("broken",):
            raise RuntimeError("a matrix has no inverse")
        self.scenes[texts] = scene(texts)
        _ = self.scenes[texts].contents
        return self.scenes[texts], self.takes


@pytest.fixture
def model() -> Model:
    return Model()


Make = Callable[..., TestClient]


@pytest.fixture
def make(model: Model) -> Iterator[Make]:
    """A client of a server, which is ended afterwards."""
    clients = []

    def made(*, seconds: float = 60, asked: int = 64, reading: float = 60, **options: Any) -> TestClient:
        texts = Texts(("tiny", "small"), model, MEMORY, seconds=reading, **options)
        app = application(texts, token=TOKEN, hosts=Hosts("127.0.0.1", 8000), seconds=seconds, asked=asked)
        client = TestClient(app, base_url=f"{HERE}/{TOKEN}/", raise_server_exceptions=False)
        clients.append(client.__enter__())
        return client

    yield made
    model.step.release(100)
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make: Make) -> TestClient:
    return make()


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def add(client: TestClient, *text: str, model: str = "tiny") -> int:
    answer = client.post("texts", json={"model": model, "text": list(text)})
    assert answer.status_code == 202, answer.text
    return int(answer.json()["number"])


def told(client: TestClient, number: int) -> dict[str, Any] | None:
    return next((text for text in client.get("texts").json()["texts"] if text["number"] == number), None)


def read(client: TestClient, *text: str) -> int:
    number = add(client, *text)
    until(lambda: (told(client, number) or {}).get("state") in ("ready", "failed"))
    return number


def refusal(answer: Any, status: int) -> str:
    """The sentence of an answer that refuses."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()["said"]
    assert said.endswith(".")
    return str(said)


# What it does


def test_a_text_is_read_and_its_scene_is_there_block_by_block(client: TestClient, model: Model) -> None:
    number = read(client, "abc", "de")
    text = told(client, number)
    assert text is not None
    assert (text["state"], text["title"], text["done"], text["of"]) == ("ready", "abc · de", 3, 3)
    expected = model.scenes["abc", "de"]
    assert client.get(f"texts/{number}").json() == expected.contents
    answer = client.get(f"texts/{number}/layer-0")
    assert zlib.decompress(answer.content) == zlib.decompress(expected.block("layer-0"))
    assert answer.headers["content-type"] == "application/octet-stream"


def test_progress_is_told_step_by_step(client: TestClient, model: Model) -> None:
    model.slow = True
    number = add(client, "abc")
    for done in range(3):
        until(lambda done=done: (told(client, number) or {})["done"] == done)
        model.step.release()
    until(lambda: (told(client, number) or {})["state"] == "ready")


def test_a_text_that_is_removed_while_it_is_read_stops(client: TestClient, model: Model) -> None:
    model.slow = True
    number = add(client, "abc")
    until(lambda: (told(client, number) or {})["state"] == "running")
    assert client.delete(f"texts/{number}").status_code == 204
    assert told(client, number) is None
    model.step.release()
    model.slow = False
    read(client, "next")  # the reader is free again
    assert ("abc",) not in model.scenes
    assert "There is no text" in refusal(client.delete(f"texts/{number}"), 404)


def test_what_cannot_be_read_says_why(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    for text, said in (
        ("too long", "The text is too long."),
        ("broken", "tiny failed on this text (RuntimeError: a matrix has no inverse)."),
    ):
        number = read(client, text)
        found = told(client, number)
        assert found is not None and found["state"] == "failed" and found["said"] == said
        assert refusal(client.get(f"texts/{number}"), 404) == said
    assert "a matrix has no inverse" in caplog.text


def test_reading_that_takes_too_long_is_stopped(make: Make, model: Model) -> None:
    client = make(reading=0.05)
    model.slow = True
    number = add(client, "abc")
    time.sleep(0.1)
    model.step.release()
    until(lambda: (told(client, number) or {})["state"] == "failed")
    assert "took too long" in refusal(client.get(f"texts/{number}"), 404)


def test_markup_in_a_text_stays_text(client: TestClient) -> None:
    number = read(client, ATTACK)
    answer = client.get("texts")
    assert answer.headers["content-type"] == "application/json"
    assert client.get(f"texts/{number}").json()["title"] == ATTACK
    assert ATTACK not in client.get("").text


# Who may ask


@pytest.mark.parametrize("path", ["", "serve.js", "style.css", "texts", "texts/1", "texts/1/layer-0", "nothing"])
@pytest.mark.parametrize("token", ["/", "//", "/wrong/", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"/{TOKEN.upper()}/", "/é/"])
def test_nothing_is_had_without_the_token(client: TestClient, token: str, path: str) -> None:
    assert "lacks the token" in refusal(client.get(f"{HERE}{token}{path}"), 403)


def test_the_token_in_another_place_than_the_path_counts_nothing(client: TestClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Cookie": f"token={TOKEN}", "Referer": f"{HERE}/{TOKEN}/"}
    for path in (f"/texts?token={TOKEN}", f"/texts/{TOKEN}/", f"//{TOKEN}/texts", f"/{TOKEN}", f"/x/../{TOKEN}x/texts"):
        assert "lacks the token" in refusal(client.get(f"{HERE}{path}", headers=headers), 403)


@pytest.mark.parametrize("host", OTHER_NAMES)
def test_a_name_that_leads_here_from_elsewhere_is_refused(client: TestClient, host: str) -> None:
    assert "not asked under that name" in refusal(client.get("texts", headers={"Host": host}), 421)


def test_a_request_that_says_two_names_is_refused(client: TestClient) -> None:
    names = [("Host", "127.0.0.1:8000"), ("Host", "evil.example")]
    for headers in (names, names[::-1]):
        assert "not asked under that name" in refusal(client.get("texts", headers=headers), 421)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "[::1]:8000"])
def test_our_own_names_are_welcome(client: TestClient, host: str) -> None:
    assert client.get("texts", headers={"Host": host}).status_code == 200


def test_all_networks_are_asked_by_number_alone() -> None:
    hosts = Hosts("0.0.0.0", 8000)
    assert "192.168.0.7:8000" in hosts and "[fe80::1]:8000" in hosts and "localhost:8000" in hosts
    assert "evil.example:8000" not in hosts and "192.168.0.7:8001" not in hosts and "192.168.0.7" not in hosts
    assert "attention.example:8000" in Hosts("attention.example", 8000)
    assert "localhost" in Hosts("127.0.0.1", 80) and "localhost:80" in Hosts("127.0.0.1", 80)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001"])
def test_a_page_of_somebody_else_changes_nothing(client: TestClient, origin: str) -> None:
    number = read(client, "abc")
    wish = {"model": "tiny", "text": ["abc"]}
    headers = {"Origin": origin}
    assert "somebody else" in refusal(client.post("texts", json=wish, headers=headers), 403)
    assert "somebody else" in refusal(client.delete(f"texts/{number}", headers=headers), 403)
    assert [text["number"] for text in client.get("texts").json()["texts"]] == [number]
    assert client.delete(f"texts/{number}", headers={"Origin": HERE}).status_code == 204


def test_every_answer_tells_the_browser_to_run_and_share_nothing_else(client: TestClient) -> None:
    number = read(client, "abc")
    for path in ("", "serve.js", "style.css", "texts", f"texts/{number}", f"texts/{number}/layer-0", "nothing", "/bad"):
        headers = client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert not [name for name in headers if name.lower().startswith("access-control")]
        assert "set-cookie" not in headers
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    page = client.get("").text
    assert page.count("<script") == 1 and '<script type="module" src="serve.js"></script>' in page
    assert "<style" not in page and TOKEN not in page
    assert client.options("texts", headers={"Origin": "http://evil.example"}).status_code == 403


# What may be asked


@pytest.mark.parametrize("path", TRICKS)
def test_no_path_leads_to_a_file(client: TestClient, path: str) -> None:
    answer = client.get(f"{HERE}/{TOKEN}/{path}")
    assert refusal(answer, answer.status_code) and answer.status_code in (403, 404) and not answer.history


@pytest.mark.parametrize(
    "name", ["layer-1", "layer-00000000", "layer", "tile-0", "layer-0-0", "layer--1", "x" * 400, "LAYER-0"]
)
def test_a_block_that_is_not_there_is_said(client: TestClient, name: str) -> None:
    number = read(client, "abc")
    assert "no such block" in refusal(client.get(f"texts/{number}/{name}"), 404)
    assert "There is no text 99" in refusal(client.get(f"texts/99/{name}"), 404)


@pytest.mark.parametrize("name", ["large", "../tiny", "/etc", "hub/name", "", "TINY"])
def test_a_model_that_the_command_line_did_not_allow_is_refused(client: TestClient, name: str) -> None:
    answer = client.post("texts", json={"model": name, "text": ["abc"]})
    assert "expected one of tiny, small" in refusal(answer, 400)


@pytest.mark.parametrize("body", [*NO_WISHES, "[" * 100_000])
def test_a_wish_that_is_none_is_refused(client: TestClient, body: str) -> None:
    answer = client.post("texts", content=body.encode("latin-1"), headers={"Content-Type": "application/json"})
    refusal(answer, 400)
    assert client.get("texts").json()["texts"] == []


def test_a_form_of_another_page_cannot_be_sent_here(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post("texts", content=b'{"model": "tiny", "text": ["a"]}', headers={"Content-Type": kind})
        assert "application/json" in refusal(answer, 415)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT", "ANY"])
def test_other_methods_are_refused(client: TestClient, method: str) -> None:
    refusal(client.request(method, "serve.js"), 405)
    assert "somebody else" in refusal(
        client.request(method, "serve.js", headers={"Origin": "http://evil.example"}), 403
    )


def test_the_head_alone_is_had_by_those_who_may_have_the_rest(client: TestClient) -> None:
    number = read(client, "abc")
    for path in ("", "texts", f"texts/{number}", f"texts/{number}/layer-0"):
        answer = client.head(path)
        assert answer.status_code == 200 and {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert client.head(f"{HERE}/wrong/{path}").status_code == 403


def test_a_socket_is_not_opened_here(client: TestClient) -> None:
    sent: list[Any] = []

    async def talk() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await client.app({"type": "websocket", "path": f"/{TOKEN}/texts", "headers": []}, receive, send)

    asyncio.run(talk())
    assert sent == [{"type": "websocket.close"}]


# Bounds


def test_a_request_has_a_size(client: TestClient) -> None:
    parts = [b'{"model": "tiny", "text": ["', b"a" * serving.BODY, b'"]}']
    headers = {"Content-Type": "application/json"}
    for content in (b"".join(parts), iter(parts)):  # the second without saying how long it is
        assert "too long" in refusal(client.post("texts", content=content, headers=headers), 413)


def test_a_request_that_does_not_arrive_is_not_waited_for(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.05)

    async def receive() -> Any:
        await asyncio.sleep(10)

    assert posted(client, receive) == (408, "The text did not arrive in time; send it again.")


def test_a_request_that_is_cut_off_is_no_fault_of_ours(client: TestClient) -> None:
    parts = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(parts)

    assert posted(client, receive) == (400, "The text was cut off; send it again.")
    assert client.get("texts").json()["texts"] == []


def posted(client: TestClient, receive: Callable[[], Any]) -> tuple[int, str]:
    """The answer to a text that arrives as `receive` has it."""
    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json"), (b"content-length", b"9")]
    path = f"/{TOKEN}/texts"
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(client.app(scope, receive, send))
    return answers[0]["status"], json.loads(answers[1]["body"])["said"]


def test_an_address_has_a_length(client: TestClient) -> None:
    for path in ("x" * 5000, "texts/" + "9" * 5000, "texts/1/" + "layer-0" * 1000):
        assert "too long" in refusal(client.get(path), 414)


def test_only_so_many_texts_wait(make: Make, model: Model) -> None:
    client = make(waiting=2)
    model.slow = True
    first, second = add(client, "abc"), add(client, "def")
    answer = client.post("texts", json={"model": "tiny", "text": ["ghi"]})
    assert "2 texts are being read or wait" in refusal(answer, 503)
    assert answer.headers["retry-after"]
    until(lambda: (told(client, first) or {})["state"] == "running")
    assert (told(client, second) or {})["state"] == "waiting"  # one at a time
    model.step.release(6)
    until(lambda: (told(client, second) or {})["state"] == "ready")
    add(client, "ghi")


def test_the_oldest_texts_are_let_go_for_new_ones_and_it_says_so(make: Make, model: Model) -> None:
    client = make(count=2)
    numbers = [read(client, text) for text in ("first", "second", "third")]
    assert [text["number"] for text in client.get("texts").json()["texts"]] == numbers[1:]
    assert "“first” was let go: up to 2 texts are kept" in client.get("texts").json()["notice"]
    assert "let go for new ones" in refusal(client.get(f"texts/{numbers[0]}/layer-0"), 404)
    client.delete(f"texts/{numbers[1]}")
    assert client.get("texts").json()["notice"] is None  # it is told until something else happens
    for text in ("fourth", "fifth"):
        read(client, text)
    assert "“third” was let go" in client.get("texts").json()["notice"]
    model.slow = True
    add(client, "sixth")
    assert client.get("texts").json()["notice"] is None
    model.step.release(3)


def test_the_texts_share_the_memory(make: Make, model: Model) -> None:
    client = make()
    model.takes = MEMORY // 2
    read(client, "first")
    second = read(client, "second")
    assert len(client.get("texts").json()["texts"]) == 2
    model.takes = MEMORY
    third = read(client, "third")
    assert [text["number"] for text in client.get("texts").json()["texts"]] == [third]
    assert "“first”, “second” were let go" in client.get("texts").json()["notice"]
    refusal(client.get(f"texts/{second}"), 404)


def test_blocks_are_made_a_few_at_once_and_only_so_many_wait(
    make: Make, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(asked=4)
    number = read(client, "abc")
    running, most, lock, go = 0, 0, threading.Lock(), threading.Event()
    real = Scene.block

    def slow(self: Scene, name: str) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(10)
        with lock:
            running -= 1
        return real(self, name)

    monkeypatch.setattr(Scene, "block", slow)
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.get(f"texts/{number}/layer-0"))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) == 6)  # of which each was one too many
    assert all("at once" in refusal(answer, 503) for answer in answers)
    go.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers[6:]] == [200] * 4
    assert len({answer.content for answer in answers[6:]}) == 1
    assert most == serving.AT_ONCE
    assert [client.get(f"texts/{number}/layer-0").status_code for _ in range(5)] == [200] * 5  # there is room again


def test_a_block_that_takes_too_long_is_said_and_the_next_is_made(
    make: Make, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(seconds=0.05)
    number = read(client, "abc")
    go = threading.Event()
    real = Scene.block
    monkeypatch.setattr(Scene, "block", lambda self, name: (go.wait(10), real(self, name))[1])
    assert "takes too long" in refusal(client.get(f"texts/{number}/layer-0"), 503)
    go.set()
    until(lambda: client.get(f"texts/{number}/layer-0").status_code == 200)


def test_a_fault_of_ours_is_said_without_a_traceback(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    number = read(client, "abc")
    monkeypatch.setattr(Scene, "block", lambda self, name: 1 / 0)
    said = refusal(client.get(f"texts/{number}/layer-0"), 500)
    assert "ZeroDivisionError" in said and "Traceback" not in said
