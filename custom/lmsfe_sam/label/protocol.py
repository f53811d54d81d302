"""Time limits on a connection that uvicorn does not have: for headers, and for clients that do not read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

READING = 60.0
"""Seconds in which a client must read some of an answer that waits for it."""


class TimedProtocol(H11Protocol):
    """uvicorn's protocol for HTTP/1.1 that drops clients which never finish their headers or never read.

    Attributes:
        patience: seconds from a connection's start, or its last answer, to the end of a request's headers.
    """

    patience = 15.0
    _headers: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # noqa: D102
        super().connection_made(transport)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        _stop(self._headers)
        self._headers = None
        _stop(self._reading)
        self._reading = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        super().data_received(data)
        self._watch_headers()

    def on_response_complete(self) -> None:  # noqa: D102
        super().on_response_complete()
        self._watch_headers()

    def pause_writing(self) -> None:  # noqa: D102
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(READING, self.transport.abort)

    def resume_writing(self) -> None:  # noqa: D102
        _stop(self._reading)
        self._reading = None
        super().resume_writing()

    def _watch_headers(self) -> None:
        """Let the clock run whenever no request is being answered: data that trickles in does not stop it."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            _stop(self._headers)
            self._headers = None
        elif self._headers is None and not self.transport.is_closing():
            self._headers = self.loop.call_later(self.patience, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def patient_for(seconds: float) -> type[TimedProtocol]:
    """Return the protocol with another time for headers: uvicorn wants a class."""
    return type("PatientProtocol", (TimedProtocol,), {"patience": seconds})
