"""BERT encoder (Devlin et al. 2019, arXiv:1810.04805)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from .layers import Built, finish, tokens


class BertEmbeddings(nn.Module):
    """Sum of word, position and type embeddings, normalised: two times [N, T] -> [N, T, dim]."""

    position_ids: Tensor

    def __init__(self, vocabulary: int, dim: int, positions: int, types: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, dim)
        self.token_type_embeddings = nn.Embedding(types, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("position_ids", torch.arange(positions).unsqueeze(0), persistent=False)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        positions = self.position_ids[:, : input_ids.shape[1]]
        summed = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        out: Tensor = self.dropout(self.norm(summed + self.position_embeddings(positions)))
        return out


class BertAttention(nn.Module):
    """Self-attention written out by hand, [N, T, dim] -> same, with separate query, key and value."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(dim, dim)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_dim).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query = self._split_heads(self.query(x))
        key = self._split_heads(self.key(x))
        value = self._split_heads(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_dim) + mask
        weights = self.dropout(torch.softmax(scores, dim=-1))
        mixed = torch.matmul(weights, value).permute(0, 2, 1, 3).contiguous()
        out: Tensor = self.output(mixed.view(x.shape[0], x.shape[1], self.heads * self.head_dim))
        return out


class BertLayer(nn.Module):
    """Post-norm transformer layer: [N, T, dim] -> same."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = BertAttention(dim, heads)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-12)
        self.intermediate = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.output = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(0.1)
        self.output_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        hidden = self.output(self.act(self.intermediate(x)))
        out: Tensor = self.output_norm(x + self.dropout(hidden))
        return out


class Bert(nn.Module):
    """BERT encoder with pooler.

    Inputs are `input_ids`, `attention_mask` (1 where there is a token, 0 where there is padding) and
    `token_type_ids`, all [N, T] int64. Outputs are the sequence [N, T, dim] and the pooled first token,
    [N, dim].

    Args:
        vocabulary: Number of word pieces.
        dim: Hidden size.
        depth: Number of layers.
        heads: Attention heads.
        hidden: Features of the feed-forward layers.
        positions: Longest sequence.
        types: Number of token types.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        positions: int = 512,
        types: int = 2,
    ) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(vocabulary, dim, positions, types)
        self.layers = nn.ModuleList(BertLayer(dim, heads, hidden) for _ in range(depth))
        self.pooler = nn.Linear(dim, dim)
        self.pooler_act = nn.Tanh()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embeddings(input_ids, token_type_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        return x, self.pooler_act(self.pooler(x[:, 0]))


def _inputs(batch: int, length: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and types of a batch whose last sequence is padded in its last quarter."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - length // 4 :] = 0
    types = (torch.arange(length) >= length // 2).to(torch.int64).repeat(batch, 1)
    return tokens(batch, length, vocabulary) * mask, mask, types


def bert(batch: int = 2, length: int = 16) -> Built:
    """Zoo entry, two layers with four heads of 16.

    Shapes: three times [batch, length] -> [batch, length, 64], [batch, 64].
    """
    make = partial(Bert, 512, dim=64, depth=2, heads=4, hidden=256, positions=64)
    return finish(make, *_inputs(batch, length, 512))


def bert_base(batch: int = 1, length: int = 128) -> Built:
    """BERT-base, 109.5M parameters: three times [batch, length] -> [batch, length, 768], [batch, 768]."""
    make = partial(Bert, 30522, dim=768, depth=12, heads=12, hidden=3072)
    return finish(make, *_inputs(batch, length, 30522))
