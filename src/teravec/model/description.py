"""The file ``model.json``: the model's settings, its history, and its files' checksums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from teravec.errors import CorruptFile
from teravec.kernels.codec import Codec
from teravec.storage.jsonfile import json_checksum, read_json, write_json
from teravec.storage.local_store import AnyPath

__all__ = ["GRAPH_LIST_BYTES", "ModelDescription"]

GRAPH_LIST_BYTES = 300
"""Bytes of one list in the coarse quantizer's graph, if it has a graph."""

_FORMAT, _VERSION = "teravec-model", 1


@dataclass(frozen=True)
class ModelDescription:
    """The content of ``model/model.json``.

    Parameters
    ----------
    d : int
        Dimensions of the user's vectors.
    d_index : int
        Dimensions after the transform: those of centroids and codes.
    nlist, code_size, ntrain : int
        Number of lists; bytes of a vector's code, both stages together in a two-stage codec;
        vectors of the training sample.
    metric, transform, codec, quantizer : str
        Names; the quantizer is ``exact`` or ``hnsw``.
    seed : int
    assignment : dict
        How vectors are assigned to lists: the groups of centroids, the margin within which a
        group is visited (null: compare every centroid), the mean number of groups visited, and
        the share of test vectors assigned as by exact search. The test vectors lie outside the
        sample if there are enough.
    history : list of dict
        Objective, imbalance, empty lists and agreement of each k-means iteration.
    files : dict
        Size and checksum of every other file of the model, by name.
    lists : dict or None
        Sizes of the lists, estimated from the sample, and the effect of splitting; see
        ``training.splitting``. None in models of releases without this estimate.
    rebalanced : dict or None
        Of a model that rebalancing derived: its ``parent``, as a checksum; its ``generation``, 1
        for the first after the build; the lists that the build had, ``built_nlist``; and the
        number of ``unused`` list numbers. None for a model that was trained.
    given : list of dict or None
        Files of the centroids, with their fingerprints, if the user gave them.
    """

    d: int
    d_index: int
    nlist: int
    code_size: int
    ntrain: int
    metric: str
    transform: str
    codec: str
    quantizer: str
    seed: int
    assignment: dict[str, Any]
    history: list[dict[str, Any]]
    files: dict[str, dict[str, Any]]
    lists: dict[str, Any] | None = None
    rebalanced: dict[str, Any] | None = None
    given: list[dict[str, Any]] | None = None

    @property
    def sketch_size(self) -> int:
        """Bytes of the sketch, a part of ``code_size``; 0 in a one-stage codec."""
        return Codec.parse(self.codec).sketch_size(self.d_index)

    def content(self) -> dict[str, Any]:
        """Return the JSON object to seal."""
        content = {"format": _FORMAT, "version": _VERSION, **vars(self)}
        for key in ("lists", "rebalanced", "given"):
            if content[key] is None:
                del content[key]
        return content

    def write(self, directory: AnyPath) -> None:
        """Seal the model; its other files must exist."""
        write_json(_path(directory), self.content())

    @staticmethod
    def is_sealed(directory: AnyPath) -> bool:
        """Whether the directory holds a sealed model."""
        return _path(directory).exists()

    @classmethod
    def read(cls, directory: AnyPath) -> ModelDescription:
        """Read ``model.json``, or raise MissingFile, CorruptFile or IncompatibleVersion."""
        path = _path(directory)
        content = read_json(path, _FORMAT, _VERSION)
        del content["format"], content["version"]
        try:
            return cls(**content)
        except TypeError as error:
            raise CorruptFile(f"{path}: unexpected fields: {error}") from error

    @property
    def memory_bytes(self) -> int:
        """Approximate memory of the model: centroids twice and as bytes, codec, graph."""
        graph = self.nlist * GRAPH_LIST_BYTES if self.quantizer == "hnsw" else 0
        return 9 * self.nlist * self.d_index + int(self.files["codec.npy"]["size"]) + graph

    @property
    def tag(self) -> int:
        """The checksum as a number, as in the header of list files."""
        return int(self.checksum, 16)

    @cached_property
    def checksum(self) -> str:
        """The model's identity in shards, slices and manifest: 16 hexadecimal digits.

        It covers every file of the model through the files' checksums.
        """
        return json_checksum(self.content())


def _path(directory: AnyPath) -> AnyPath:
    return directory / "model.json"
