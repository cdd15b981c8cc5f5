"""Three stores of vectors behind one interface: by hand in NumPy, FAISS, Chroma. All compare by cosine."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from course_utils import colab
from course_utils.agents.retrieval.vectors import unit_length


@dataclass(frozen=True)
class Hit:
    """A stored vector that a search found: its id, and its cosine with the query."""

    id: str
    score: float


class Store(Protocol):
    """What every store can do."""

    name: str

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Keep `vectors` (n, d) under `ids`. ValueError if their numbers differ or an id is taken."""

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        """The `k` nearest to `vector` (d,), the nearest first; fewer where fewer are stored."""

    def __len__(self) -> int:
        """How many vectors are stored."""


class _Checked:
    """What the stores share: ids that are unique, vectors of one width, at length 1."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.width = 0

    def __len__(self) -> int:
        return len(self.ids)

    def _rows(self, ids: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """The vectors to store, (n, d), after all checks; the ids are noted."""
        rows = np.asarray(vectors, np.float32)
        if rows.ndim != 2 or len(rows) != len(ids):
            raise ValueError(f"{len(ids)} ids need vectors of shape ({len(ids)}, d), not {rows.shape}")
        known = set(self.ids)
        if len(set(ids)) < len(ids) or known & set(ids):
            raise ValueError("each id may be stored once: give new ids, or begin with an empty store")
        if self.width and rows.shape[1] != self.width:
            raise ValueError(f"the vectors are {rows.shape[1]} wide, those in the store {self.width}")
        if not np.isfinite(rows).all():
            raise ValueError("a vector holds a number that is not finite: nothing can be near it")
        self.width = rows.shape[1]
        self.ids += ids
        return unit_length(rows)

    def _query(self, vector: np.ndarray, k: int) -> np.ndarray:
        """The vector to look for, (1, d), at length 1."""
        if k < 1:
            raise ValueError(f"ask for at least one result, not for {k}")
        query = np.asarray(vector, np.float32)
        if self.ids and query.shape != (self.width,):
            raise ValueError(f"a query is one vector of shape ({self.width},), not {query.shape}")
        return unit_length(query.reshape(1, -1))


class NumpyStore(_Checked):
    """Exact search by hand: the cosine with every stored vector, then the largest."""

    name = "NumPy"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[np.ndarray] = []

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        self.rows.append(self._rows(ids, vectors))

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        query = self._query(vector, k)
        if not self.ids:
            return []
        self.rows = [np.concatenate(self.rows)]
        cosines = self.rows[0] @ query[0]  # (n,)
        best = np.argsort(-cosines, kind="stable")[:k]
        return [Hit(self.ids[place], float(cosines[place])) for place in best]


class FaissStore(_Checked):
    """FAISS (Douze et al. 2024, arXiv 2401.08281): the exact index of inner products."""

    name = "FAISS"

    def __init__(self) -> None:
        super().__init__()
        self.index: Any = None

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        import faiss

        rows = self._rows(ids, vectors)
        if self.index is None:
            self.index = faiss.IndexFlatIP(self.width)
        self.index.add(rows)

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        query = self._query(vector, k)
        if not self.ids:
            return []
        cosines, places = self.index.search(query, min(k, len(self.ids)))  # (1, k) each
        return [Hit(self.ids[place], float(cosine)) for place, cosine in zip(places[0], cosines[0], strict=True)]


class ChromaStore(_Checked):
    """Chroma, in memory: an approximate graph of neighbours (HNSW; Malkov and Yashunin 2016, arXiv 1603.09320)."""

    name = "Chroma"
    MOST = 5000  # vectors that Chroma takes at once

    def __init__(self) -> None:
        super().__init__()
        if not has_chroma():
            raise ImportError(missing_chroma())
        import chromadb
        from chromadb.config import Settings

        client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
        # All in-memory clients of a process share their collections: each store has a name of its own.
        self.collection = client.create_collection(
            f"course-{uuid.uuid4().hex}",
            configuration={"hnsw": {"space": "cosine", "ef_search": 200}},
            embedding_function=None,  # it would download a model of its own
        )

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        rows = self._rows(ids, vectors)
        for start in range(0, len(ids), self.MOST):
            part = slice(start, start + self.MOST)
            self.collection.add(ids=list(ids[part]), embeddings=rows[part])

    def search(self, vector: np.ndarray, k: int) -> list[Hit]:
        query = self._query(vector, k)
        if not self.ids:
            return []
        wanted = min(k, len(self.ids))
        found = self.collection.query(query_embeddings=query, n_results=wanted, include=["distances"])
        hits = zip(found["ids"][0], found["distances"][0], strict=True)
        return [Hit(name, 1 - float(distance)) for name, distance in hits]


def has_chroma() -> bool:
    """Whether Chroma is installed."""
    return find_spec("chromadb") is not None


def missing_chroma() -> str:
    """That Chroma is missing, what stands in for it, what that costs and how to get it."""
    return (
        "Chroma is missing, because the extra 'agents' is not installed. FAISS and NumPy store the same vectors; what "
        "is lost is a database that also keeps texts and filters.\n"
        f"  To get it: {colab.how_to_add_extra('agents')}"
    )


def kinds() -> list[type]:
    """The stores that this machine has."""
    return [NumpyStore, FaissStore, *([ChromaStore] if has_chroma() else [])]
