"""The connection: uvicorn's, but closed if no request arrives on it in time, so that silence keeps nobody out."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 10.0
"""Seconds between two looks at a connection: one that had no request to be answered at either is closed."""


class Connection(H11Protocol):
    """One connection of a browser's. Its h11 bounds how long a request's head may be, this how long it may take."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to look at it."""
        super().connection_made(transport)
        self.loop.call_later(PATIENCE, self._look, (None, True))

    def _look(self, before: tuple[Any, bool]) -> None:
        now = self.cycle, self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing():
            return
        if now == before and now[1]:
            self.transport.close()
        else:
            self.loop.call_later(PATIENCE, self._look, now)
