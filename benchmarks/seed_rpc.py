"""The original's way to serve from several machines, in plain Faiss: its RPC and its split.

``faiss.contrib.rpc`` pickles calls over a socket; its unpickler knows NumPy 1 only, and is told
NumPy 2's module here. As in the scripts of Faiss's ``benchs/distributed_ondisk``, every server
opens the whole index; the client chooses lists, balances them over the servers by size, heaviest
first, and sends each server all queries with a table of lists in which others' are -1.

``python -m benchmarks.seed_rpc INDEX`` is one server. Faiss's loop over lists meets at a barrier
for every query, and a thread that waits there keeps its processor busy. So servers that share a
machine must share its processors out (OMP_NUM_THREADS in their environment: a call of
``omp_set_num_threads`` counts for the thread that makes it): with 3 servers of 2 threads each on 2
processors, 1,000 queries took minutes.

Both ends set TCP_NODELAY, which the original does not: without it a pickle, which goes in several
writes, waits for the other end's delayed acknowledgement.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss.contrib import rpc

from benchmarks.data import Floats, Ids

rpc.safe_modules |= {"numpy._core.multiarray", "numpy._core.numeric"}


class ListsServer(rpc.Server):  # type: ignore[misc]
    """Searches lists that its caller chose."""

    def __init__(self, connection: socket.socket, index: Any) -> None:
        super().__init__(connection, logf=io.StringIO())
        self._ivf = faiss.extract_index_ivf(index)
        self._ivf.parallel_mode = 1

    def log(self, s: str) -> None:
        """Say nothing: the original prints every call."""

    def search_preassigned(
        self, xq: Floats, list_nos: Ids, coarse: Floats, k: int
    ) -> tuple[Floats, Ids]:
        """Scan the lists of each query; -1 is none."""
        self._ivf.nprobe = list_nos.shape[1]
        found: tuple[Floats, Ids] = self._ivf.search_preassigned(xq, k, list_nos, coarse)
        return found


class SplitPerList:
    """The original's coordinator: a local index for the coarse step, and servers for the lists.

    Attributes
    ----------
    sent, received : int
        Bytes written to and read from the servers.
    """

    def __init__(self, index: Any, ports: list[int]) -> None:
        self._index, self._ivf = index, faiss.extract_index_ivf(index)
        self._sizes = np.array(
            [self._ivf.invlists.list_size(n) for n in range(self._ivf.nlist)], np.int64
        )
        self._clients = [rpc.Client("127.0.0.1", port) for port in ports]
        for client in self._clients:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = self.received = 0
        for client in self._clients:
            self._count(client.fs)
        self._pool = ThreadPool(len(ports))

    def _count(self, stream: Any) -> None:
        write, read = stream.write, stream.read

        def counted_write(buffer: Any) -> None:
            self.sent += len(memoryview(buffer).cast("B"))
            write(buffer)

        def counted_read(size: int = 1 << 19) -> bytes:
            found: bytes = read(size)
            self.received += len(found)
            return found

        stream.write, stream.read = counted_write, counted_read

    def search(self, xq: Floats, k: int, nprobe: int) -> tuple[Floats, Ids]:
        """Search all servers and merge."""
        if isinstance(self._index, faiss.IndexPreTransform):
            xq = self._index.chain.at(0).apply(xq)
        # A query alone has nothing to share out, and would wait at barriers.
        faiss.omp_set_num_threads(min(len(xq), len(os.sched_getaffinity(0))))
        coarse, list_nos = self._ivf.quantizer.search(xq, nprobe)
        assigned = self._balanced(list_nos)
        heap = faiss.ResultHeap(len(xq), k)

        def ask(number: int) -> tuple[Floats, Ids]:
            own = list_nos.copy()
            own[assigned != number] = -1
            found: tuple[Floats, Ids] = self._clients[number].search_preassigned(xq, own, coarse, k)
            return found

        for distances, ids in self._pool.imap(ask, range(len(self._clients))):
            heap.add_result(distances, ids)
        heap.finalize()
        return heap.D, heap.I

    def _balanced(self, list_nos: Ids) -> Ids:
        """Server of each (query, list): heaviest first, to the one with the least so far.

        The original asks Faiss for each size, one by one; sizes are looked up here.
        """
        weights = self._sizes[list_nos.ravel()]
        loads = np.zeros(len(self._clients))
        assigned = np.empty(len(weights), np.int64)
        for position in np.argsort(weights)[::-1]:
            lightest = loads.argmin()
            assigned[position] = lightest
            loads[lightest] += weights[position]
        return assigned.reshape(list_nos.shape)


def main(path: Path) -> None:
    """Serve one index until killed; the port is printed."""
    index = faiss.read_index(str(path))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = ListsServer(connection, index)
        threading.Thread(target=server.exec_loop, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
