"""SAM's two-way transformer with the same parameters and results, at fewer operations.

A prompt has some seven tokens, an image 256, and in segment_anything's decoder nearly all the work is to
project the image's tokens. Where one side of an attention has so few tokens, the image's projection can be
brought to the other side instead: ``q . (W y + b) = (W^T q) . y + q . b``, for each head.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor
from torch.nn import functional as F


class FewTokenAttention(Attention):
    """SAM's attention, with two forms that leave the image's tokens unprojected.

    They cost less while heads x tokens are fewer than the projection's channels; with more tokens
    (sixteen, at ViT-B's sizes) they fall back on the plain form.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend, ``(M, T, C)`` to ``(M, L, C)``, as segment_anything does."""
        q, k, v = self._heads(self.q_proj(q)), self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def attend_to_image(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let ``tokens (M, T, C)`` attend to an image's ``keys`` and ``values (M, L, C)``."""
        m, t, c = tokens.shape
        if not self._is_small(t):
            return self.forward(tokens, keys, values)
        q = self._scaled_heads(self.q_proj(tokens))
        projected = torch.einsum("mntd,ndc->mntc", q, self._by_head(self.k_proj.weight)).flatten(1, 2)
        constant = torch.einsum("mntd,nd->mnt", q, self._by_head(self.k_proj.bias)).reshape(m, -1, 1)
        weights = torch.baddbmm(constant, projected, keys.transpose(1, 2)).softmax(dim=-1)
        mean = torch.bmm(weights, values).reshape(m, self.num_heads, t, c)
        y = torch.einsum("mntc,ndc->mtnd", mean, self._by_head(self.v_proj.weight)).flatten(2)
        return self.out_proj(y + self.v_proj.bias)

    def attend_to_tokens(self, image: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let ``image (M, L, C)`` attend to the tokens' ``keys`` and ``values (M, T, C)``."""
        m, t, c = keys.shape
        if not self._is_small(t):
            return self.forward(image, keys, values)
        k = self._scaled_heads(self.k_proj(keys))
        projected = torch.einsum("mntd,ndc->mntc", k, self._by_head(self.q_proj.weight)).flatten(1, 2)
        constant = torch.einsum("mntd,nd->mnt", k, self._by_head(self.q_proj.bias)).reshape(m, 1, -1)
        logits = torch.baddbmm(constant, image, projected.transpose(1, 2))
        weights = logits.reshape(m, -1, self.num_heads, t).softmax(dim=-1).flatten(2)
        out = self.out_proj.weight.reshape(c, self.num_heads, -1)
        projected_values = torch.einsum("mntd,cnd->mntc", self._heads(self.v_proj(values)), out).flatten(1, 2)
        return torch.baddbmm(self.out_proj.bias, weights, projected_values)

    def _is_small(self, tokens: int) -> bool:
        return tokens * self.num_heads < self.internal_dim

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def _scaled_heads(self, x: Tensor) -> Tensor:
        heads = self._heads(x)
        return heads * heads.shape[-1] ** -0.5

    def _by_head(self, parameter: Tensor) -> Tensor:
        return parameter.unflatten(0, [self.num_heads, -1])


class FewTokenBlock(TwoWayAttentionBlock):
    """SAM's block of four: tokens among themselves, to the image, an MLP, the image to the tokens.

    Args:
        dim: channels C of tokens and image.
        num_heads: of each attention.
        mlp_dim: hidden channels of the MLP.
        first: the tokens' own attention leaves their positions out, as in SAM's first block.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__(dim, num_heads, mlp_dim, skip_first_layer_pe=first)
        self.self_attn = FewTokenAttention(dim, num_heads)
        self.cross_attn_token_to_image = FewTokenAttention(dim, num_heads, downsample_rate=2)
        self.cross_attn_image_to_token = FewTokenAttention(dim, num_heads, downsample_rate=2)

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return new tokens ``(M, T, C)`` and a new image ``(M, L, C)``."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            queries_with_pe = queries + query_pe
            queries = queries + self.self_attn(queries_with_pe, queries_with_pe, queries)
        queries = self.norm1(queries)
        keys_with_pe = keys + key_pe
        update = self.cross_attn_token_to_image.attend_to_image(queries + query_pe, keys_with_pe, keys)
        queries = self.norm2(queries + update)
        queries = self.norm3(queries + self.mlp(queries))
        update = self.cross_attn_image_to_token.attend_to_tokens(keys_with_pe, queries + query_pe, queries)
        return queries, self.norm4(keys + update)


class FewTokenTransformer(TwoWayTransformer):
    """SAM's two-way transformer, two blocks and a final attention of the tokens to the image.

    Args:
        dim: channels C of tokens and image.
        num_heads: of each attention.
        mlp_dim: hidden channels of the blocks' MLPs.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__(depth=0, embedding_dim=dim, num_heads=num_heads, mlp_dim=mlp_dim)
        self.depth = 2
        self.layers.extend(FewTokenBlock(dim, num_heads, mlp_dim, first=i == 0) for i in range(self.depth))
        self.final_attn_token_to_image = FewTokenAttention(dim, num_heads, downsample_rate=2)

    def forward(
        self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return tokens ``(M, T, C)`` and image ``(M, g * g, C)``.

        Args:
            image_embedding: ``(M, C, g, g)``.
            image_pe: ``(1, C, g, g)``.
            point_embedding: ``(M, T, C)``.
        """
        keys = image_embedding.flatten(2).transpose(1, 2).contiguous()
        key_pe = image_pe.flatten(2).transpose(1, 2).contiguous()
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(queries, keys, point_embedding, key_pe)
        update = self.final_attn_token_to_image.attend_to_image(
            queries + point_embedding, keys + key_pe, keys
        )
        return self.norm_final_attn(queries + update), keys
