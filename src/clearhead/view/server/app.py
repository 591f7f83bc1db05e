"""The server's application: a page, the texts of a session, and the blocks of their scenes, made when asked for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from clearhead.errors import ClearheadError
from clearhead.view import page
from clearhead.view.server.guard import Guard, Hosts, Json, sentence
from clearhead.view.server.texts import Busy, Missing, Texts

BODY = 2**20
"""How many bytes a request may have."""
PATIENCE = 10.0
"""Seconds in which it must have arrived."""
AT_ONCE = 2
"""How many blocks are made at once; PyTorch and our kernels share each among the cores."""
ASKED = 64
"""How many blocks may be asked for at once."""
SECONDS = 60.0
"""How long making one may take until the page is told that it takes too long."""

T = TypeVar("T")


def application(texts: Texts, *, token: str, hosts: Hosts, seconds: float = SECONDS, asked: int = ASKED) -> ASGIApp:
    """The whole server, guarded. It closes `texts` when it is shut down.

    | request | answer |
    |---|---|
    | GET / | the page, with its script and style beside it |
    | GET /texts | the models there are, the texts of the session, and how far they are |
    | POST /texts, {"model": …, "text": […]} | 202, and the text's number; two parts are a pair |
    | DELETE /texts/N | 204: it is stopped and forgotten |
    | GET /texts/N | the contents of its scene |
    | GET /texts/N/NAME | a block of it |

    What is wrong is said in a sentence: {"said": …}.
    """
    work = _Work(seconds, asked)

    async def session(_: Request) -> Response:
        return Json(texts.told())

    async def add(request: Request) -> Response:
        model, parts = _wish(await _body(request))
        return Json({"number": texts.add(model, parts).number}, 202)

    async def remove(request: Request) -> Response:
        texts.remove(request.path_params["number"])
        return Response(status_code=204)

    async def contents(request: Request) -> Response:
        scene = texts.scene(request.path_params["number"])
        return await work.done(lambda: Json(scene.contents))

    async def block(request: Request) -> Response:
        scene, name = texts.scene(request.path_params["number"]), request.path_params["name"]
        try:
            made = await work.done(lambda: scene.block(name))
        except Busy:
            raise
        except ClearheadError as error:
            raise Missing(str(error)) from error
        return Response(made, media_type="application/octet-stream")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        texts.close()
        work.close()

    routes = [Route(path, _file(text, kind)) for path, (text, kind) in _files().items()]
    routes += [
        Route("/texts", session, methods=["GET"]),
        Route("/texts", add, methods=["POST"]),
        Route("/texts/{number:int}", remove, methods=["DELETE"]),
        Route("/texts/{number:int}", contents, methods=["GET"]),
        Route("/texts/{number:int}/{name}", block, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=dict(_HANDLERS))
    app.router.redirect_slashes = False
    return Guard(app, token=token, hosts=hosts)


def _files() -> dict[str, tuple[str, str]]:
    """All that is served beside what was asked for by name: made now, from the package's own files."""
    return {
        "/": (page.served("serve.js"), "text/html"),
        "/serve.js": (page.bundle("serve.js"), "text/javascript"),
        "/style.css": (page.stylesheet("serve.css"), "text/css"),
    }


def _file(text: str, kind: str) -> Callable[[Request], Any]:
    async def file(_: Request) -> Response:
        return Response(text, media_type=kind)

    return file


class _Work:
    """Work in threads, a few at once and so many in line."""

    def __init__(self, seconds: float, asked: int):
        self._seconds, self._most, self._asked = seconds, asked, 0
        self._threads = ThreadPoolExecutor(AT_ONCE, "block")

    async def done(self, work: Callable[[], T]) -> T:
        """What `work` gives; Busy if there is too much of it, or if it takes too long."""
        if self._asked >= self._most:
            raise Busy("Too much is asked for at once; ask again in a moment.")
        self._asked += 1
        made = asyncio.get_running_loop().run_in_executor(self._threads, torch.no_grad()(work))
        made.add_done_callback(self._one_less)
        try:
            # What runs can't be stopped: it keeps its thread, and its place in the line, until it is done.
            return await asyncio.wait_for(asyncio.shield(made), self._seconds)
        except TimeoutError as error:
            raise Busy("This takes too long; ask again, or look at less of it.") from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _one_less(self, made: "asyncio.Future[Any]") -> None:
        self._asked -= 1
        if not made.cancelled():
            made.exception()  # which somebody may have stopped waiting for


async def _body(request: Request) -> bytes:
    """What was sent, if it is JSON, not too much and not too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send the text as application/json.")
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > BODY:
                    raise HTTPException(413, f"The text is too long: a request may have {BODY:,} bytes.")
    except TimeoutError as error:
        raise HTTPException(408, "The text did not arrive in time; send it again.") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The text was cut off; send it again.") from error
    return bytes(body)


def _wish(body: bytes) -> tuple[str, tuple[str, ...]]:
    """The model and the text, or the two of a pair, that a request asks for."""
    expected = 'expected {"model": a name, "text": [a text, or two for a pair]}'
    try:
        wish = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ClearheadError(f"Got no JSON, {expected}.") from error
    model, text = (wish.get("model"), wish.get("text")) if isinstance(wish, dict) else (None, None)
    if not (
        isinstance(model, str)
        and isinstance(text, list)
        and len(text) in (1, 2)
        and all(isinstance(part, str) for part in text)
    ):
        raise ClearheadError(f"Got something else in the JSON, {expected}.")
    if any("\ud800" <= character <= "\udfff" for part in text for character in part):
        raise ClearheadError("The text holds half a character; mend it, or leave it out.")
    return model, tuple(text)


async def _said(_: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, Busy) else 404 if isinstance(error, Missing) else 400
    return sentence(str(error), status)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    plain = {404: "There is nothing of that name here.", 405: "That can't be done with it."}
    return sentence(plain.get(error.status_code, error.detail), error.status_code)


async def _failed(_: Request, error: Exception) -> Response:
    return sentence(f"The server failed, which is a fault of it: {type(error).__name__}. Its window says more.", 500)


_HANDLERS = {ClearheadError: _said, HTTPException: _http, Exception: _failed}
