"""How to convert files of other formats: one line for each."""

from __future__ import annotations

import zipfile
from pathlib import Path

__all__ = ["conversion"]

_PACKED = {
    ".gz": "gunzip",
    ".zst": "unzstd",
    ".xz": "unxz",
    ".bz2": "bunzip2",
    ".lz4": "unlz4",
    ".zip": "unzip",
    ".tar": "tar xf",
    ".tgz": "tar xzf",
    ".7z": "7z x",
}

_CONVERSIONS: dict[str, str] = {
    **dict.fromkeys(
        (".hdf5", ".h5", ".hdf"),
        "np.save('{stem}.npy', h5py.File('{name}')['train'])  # or the name of another data set",
    ),
    **dict.fromkeys(
        (".csv", ".tsv"),
        "duckdb.read_csv('{name}').write_parquet('{stem}.parquet')  # with the "
        "vector in one column, of type FLOAT[]",
    ),
    ".txt": "np.save('{stem}.npy', np.loadtxt('{name}', dtype='float32'))",
    **dict.fromkeys(
        (".json", ".jsonl", ".ndjson"), "duckdb.read_json('{name}').write_parquet('{stem}.parquet')"
    ),
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt"),
        "np.save('{stem}.npy', torch.load('{name}', weights_only=True).float().numpy())",
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"),
        "np.save('{stem}.npy', np.asarray(pd.read_pickle('{name}'), 'float32'))",
    ),
    ".safetensors": "np.save('{stem}.npy', safetensors.numpy.load_file('{name}')['NAME'])",
    ".mat": "np.save('{stem}.npy', scipy.io.loadmat('{name}')['NAME'])",
    ".orc": "pq.write_table(orc.read_table('{name}'), '{stem}.parquet')",
    ".avro": "pl.read_avro('{name}').write_parquet('{stem}.parquet')",
    ".lance": "pq.write_table(lance.dataset('{name}').to_table(), '{stem}.parquet')",
    ".zarr": "np.save('{stem}.npy', zarr.open('{name}')[:])",
    **dict.fromkeys(
        (".duckdb", ".db", ".sqlite"), "COPY the table TO '{stem}.parquet' with duckdb"
    ),
    **dict.fromkeys(
        (".dat", ".raw", ".mmap", ".memmap"),
        "np.save('{stem}.npy', np.memmap('{name}', 'float32').reshape(-1, D))",
    ),
    **dict.fromkeys(
        (".faiss", ".index"),
        "np.save('{stem}.npy', index.reconstruct_n(0, index.ntotal)) of a Faiss index",
    ),
    ".ibin": "it holds neighbours, not vectors; give the file of vectors",
}


def conversion(path: Path) -> str | None:
    """Return the line that converts a file, for the user to run; None for unknown extensions.

    It depends on the extension only and, for an .npz, on the names of its arrays.
    """
    suffix = path.suffix.lower()
    if suffix in _PACKED:
        return f"unpack it first: {_PACKED[suffix]} {path.name}"
    if suffix == ".npz":
        key = (_members(path) or ["NAME"])[0]
        line = f"np.save('{path.stem}.npy', np.load('{path.name}')['{key}'])"
        names = _members(path)
        return line + (f"  # arrays there: {', '.join(names[:5])}" if names else "")
    line = _CONVERSIONS.get(suffix, "")
    return line.format(name=path.name, stem=path.stem) or None


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []
