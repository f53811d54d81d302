"""What the endpoints share: the app, and one of each kind of work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from lmsfe_sam.label.work import Work

if TYPE_CHECKING:
    from lmsfe_sam.label.app import UltrasoundApp


@dataclass
class State:
    """Kept by the web application, handed to each endpoint.

    Attributes:
        app: MONAI Label's.
        training, scoring, batch: that which runs once at a time.
        log: path of the server's log, empty where it is not to be shown.
    """

    app: UltrasoundApp
    log: str = ""
    training: Work = field(default_factory=lambda: Work("train"))
    scoring: Work = field(default_factory=lambda: Work("scoring"))
    batch: Work = field(default_factory=lambda: Work("batch_infer"))


def state_of(request: Request) -> State:
    """Return the state of the application that a request was sent to."""
    return cast(State, request.app.state.label)


Shared = Annotated[State, Depends(state_of)]
