"""The embedding cache: a hit for the same picture, never for another one, other weights or too many."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor

from boxnet import BoxNetwork
from lmsfe_sam.inference.inferers import PROMPTS, FullImageInferer
from lmsfe_sam.predict.embedding_cache import EmbeddingCache
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts

SHAPE = (1, 3, 64, 64)


def picture(value: float) -> torch.Tensor:
    return torch.full(SHAPE, value)


class TestEmbeddingCache:
    def test_the_same_picture_is_encoded_once(self) -> None:
        network, cache = BoxNetwork().eval(), EmbeddingCache()
        with torch.no_grad():
            first = cache.encode(network, picture(1))
            again = cache.encode(network, picture(1))
        assert network.encoded == 1
        assert cache.hits == 1
        assert again is first

    def test_a_changed_picture_is_encoded_anew(self) -> None:
        network, cache = BoxNetwork().eval(), EmbeddingCache()
        image = torch.zeros(SHAPE)
        with torch.no_grad():
            cache.encode(network, image)
            image[0, 1, 7, 9] = 1e-6  # the same tensor object, one value of it
            changed = cache.encode(network, image)
        assert network.encoded == 2
        assert changed.features[0, 1, 7, 9] == 1e-6

    def test_shape_and_type_belong_to_the_picture(self) -> None:
        network, cache = BoxNetwork().eval(), EmbeddingCache()
        with torch.no_grad():
            cache.encode(network, torch.zeros(SHAPE))
            cache.encode(network, torch.zeros(SHAPE, dtype=torch.int32))
            cache.encode(network, torch.zeros(2, *SHAPE[1:]))
        assert network.encoded == 3

    def test_it_is_bounded_and_forgets_the_one_unused_for_longest(self) -> None:
        network, cache = BoxNetwork().eval(), EmbeddingCache(size=2)
        with torch.no_grad():
            for value in (1, 2, 1, 3, 1, 2):
                cache.encode(network, picture(value))
                assert len(cache) <= 2
        assert network.encoded == 4  # 1, 2, 3, and 2 again

    def test_other_weights_never_hit(self) -> None:
        network, cache = BoxNetwork().eval(), EmbeddingCache()
        with torch.no_grad():
            cache.encode(network, picture(1))
            network.anchor += 1
            cache.encode(network, picture(1))
            assert network.encoded == 2
            network.load_state_dict({"anchor": torch.ones(1)})
            cache.encode(network, picture(1))
            assert network.encoded == 3
            other = copy.deepcopy(network)
            cache.encode(other, picture(1))
        assert other.encoded == 4

    def test_nothing_is_cached_while_training_or_with_gradients(self) -> None:
        network, cache = BoxNetwork().eval(), EmbeddingCache()
        cache.encode(network, picture(1))
        with torch.no_grad():
            cache.encode(network.train(), picture(1))
        assert len(cache) == 0

    def test_size_0_keeps_nothing_and_hashes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command line never shows an image twice, so its inferers have this size."""
        monkeypatch.setattr("lmsfe_sam.predict.embedding_cache._digest", lambda image: pytest.fail("hashed"))
        network, cache = BoxNetwork().eval(), EmbeddingCache(0)
        with torch.no_grad():
            cache.encode(network, picture(1))
            cache.encode(network, picture(1))
        assert (network.encoded, len(cache)) == (2, 0)

    def test_a_copy_starts_empty(self) -> None:
        network, cache = BoxNetwork().eval(), EmbeddingCache(3)
        with torch.no_grad():
            cache.encode(network, picture(1))
        copied = copy.deepcopy(cache)
        assert (len(copied), copied.size) == (0, 3)


def test_the_inferer_decodes_new_prompts_from_the_cached_embedding() -> None:
    network, inferer = BoxNetwork().eval(), FullImageInferer(cached_embeddings=8)
    for box in ((4, 6, 40, 30), (20, 10, 60, 50)):
        image = MetaTensor(picture(1), meta={PROMPTS: Prompts.of([ObjectPrompt(box)]).given()})
        with torch.no_grad():
            inside = inferer(image, network)["labels"][0, 0] == 1
        x0, y0, x1, y1 = box
        assert inside[y0:y1, x0:x1].all()
        assert inside.sum() == (x1 - x0) * (y1 - y0)
    assert network.encoded == 1
