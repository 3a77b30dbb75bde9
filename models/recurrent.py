"""An LSTM tagger (after Huang et al. 2015, arXiv:1508.01991) and a GRU classifier (Cho et al., 1406.1078)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .layers import Built, finish, images, tokens


class LstmTagger(nn.Module):
    """Bidirectional LSTM that labels every token: [N, T] int64 -> [N, T, tags].

    Args:
        vocabulary: Number of tokens.
        dim: Embedding dimension.
        hidden: State size of each direction.
        layers: Stacked LSTM layers.
        tags: Number of labels.
    """

    def __init__(self, vocabulary: int, dim: int, hidden: int, layers: int = 1, tags: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.lstm = nn.LSTM(dim, hidden, layers, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * hidden, tags)

    def forward(self, input_ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(input_ids))
        out: Tensor = self.classifier(states)
        return out


class GruClassifier(nn.Module):
    """Stacked GRU that labels a sequence of vectors by its last state: [N, T, features] -> [N, classes].

    Args:
        features: Features per time step.
        hidden: State size.
        layers: Stacked GRU layers.
        classes: Number of logits.
    """

    def __init__(self, features: int, hidden: int, layers: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, layers, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(x)
        out: Tensor = self.classifier(last[-1])
        return out


def lstm_tagger(tags: int = 16, batch: int = 2, length: int = 12) -> Built:
    """Zoo entry, one layer of 64 states per direction: [batch, length] -> [batch, length, tags]."""
    return finish(partial(LstmTagger, 512, 64, 64, tags=tags), tokens(batch, length, 512))


def lstm_tagger_large(tags: int = 16, batch: int = 1, length: int = 64) -> Built:
    """Two layers of 512 states per direction, 18.5M parameters: [batch, length] -> [batch, length, tags]."""
    return finish(partial(LstmTagger, 30000, 300, 512, 2, tags), tokens(batch, length, 30000))


def gru_classifier(classes: int = 10, batch: int = 2, length: int = 12) -> Built:
    """Zoo entry, two layers of 96 states over 32 features: [batch, length, 32] -> [batch, classes]."""
    return finish(partial(GruClassifier, 32, 96, classes=classes), images(batch, 1, length, 32).squeeze(1))
