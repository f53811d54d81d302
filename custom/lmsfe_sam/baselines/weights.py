"""Loading a baseline's published file, whose tensors have the names of the network here."""

from __future__ import annotations

import os

from torch import nn

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.pretrained import read_state


def load_published(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a file of weights, every tensor of which must fit as it is; nothing in it is executed.

    For files of SAM's family use ``network.load_pretrained``, which also resizes position tables.

    Raises:
        InputError: no such file, no file of weights, or weights of another network.
    """
    state, target = read_state(path), network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in target.items()}
    wrong = [name for name in shapes if name not in state or tuple(state[name].shape) != shapes[name]]
    wrong += [name for name in state if name not in shapes]
    if wrong:
        raise InputError(
            f"checkpoint '{path}' is of another network: {len(wrong)} tensors do not fit, "
            f"'{wrong[0]}' first; name the network that it was made for, with its options."
        )
    network.load_state_dict(state)
    return network
