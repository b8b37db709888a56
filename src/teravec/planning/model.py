"""Predicting time, bytes, memory and disk of each stage: pure functions of sizes and speeds.

The model follows the code of each stage. If reading overlaps computing, the longer of the two
counts; writing, checking and sending are added. All machines are assumed to be equally fast, and
to have a disk and network of their own. Shared disk arrays and switches are not modelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from teravec.evaluation.calibrating import CalibrationOptions, codes_searched
from teravec.index.opened import OPENED_LIST_BYTES
from teravec.kernels.assignment import FEWEST_LISTS
from teravec.model.description import GRAPH_LIST_BYTES
from teravec.planning.constants import Constants
from teravec.planning.prediction import Plan, QueryPlan, Stage
from teravec.planning.workload import Cluster, Prices, Queries, Workload
from teravec.segments.shard_plan import bytes_of_rows, fixed_bytes, rows_in_memory
from teravec.segments.slice_plan import slice_count
from teravec.sources import GAP_BYTES
from teravec.storage.listfile import ID_BYTES
from teravec.training.options import KMeansOptions
from teravec.training.sample import draw_bytes, sample_parts
from teravec.training.schedule import stride_of
from teravec.training.sums import PROBE_PART
from teravec.training.train import EXACT_QUANTIZER_NLIST, codec_rows, training_bytes
from teravec.training.training_set import PROBE

__all__ = ["comparisons", "predict", "truth_rows"]

_PAGE_BYTES = 4096  # least bytes that a disk reads for one row
_GROUPING = 4 * 64  # k-means over centroids: its steps times the centroids sampled per group
_ITERATION_S = 0.02  # Python's time per iteration of any size: grouping, checks, a checkpoint
_LIST_S = 1e-6  # time of Python and NumPy per list and iteration
_TABLE_BYTES = 24  # table entry of a list in a list file
_TRUTH_BLOCK_BYTES = 16 << 20  # largest block of the source; five are in memory
_TRUTH_START_ROWS = 1 << 17  # a worker's first neighbours cost as much as this many rows
_FEWEST_EFFORTS = 20  # the small efforts cost little except for their results
_RESULT_S = 7e-7  # time of Python and NumPy per result: kept, sorted, named, compared
_LEAST_SEARCHES_S = 30.0  # of a calibration, however short the build; see building.build_index
_REFINED_1_BIT, _REFINED_2_BITS = 200, 50  # candidates of k = 10; see search.effort
_FLAT = 4  # times as long as fp16 takes: four bytes a dimension come from memory, not the cache
_EFFORT_STEP = math.sqrt(2)  # ratio between two consecutive efforts of a calibration


def predict(
    work: Workload, cluster: Cluster, queries: Queries, prices: Prices, constants: Constants
) -> Plan:
    """Predict a build and a query."""
    model = _Model(work, cluster, constants)
    stages: tuple[Stage, ...] = (
        model.sample(),
        model.kmeans(),
        model.seal(),
        model.shard(),
        model.merge(),
        model.truth(),
    )
    rest_s = sum(stage.seconds for stage in stages)
    stages = (*stages, model.searches(max(rest_s, _LEAST_SEARCHES_S)))
    hours = cluster.machines * sum(stage.seconds for stage in stages) / 3600
    index_bytes = work.index_bytes + work.centroid_bytes
    return Plan(
        stages,
        model.query(queries),
        hours * prices.machine_hour,
        index_bytes / 1e9 * prices.disk_gb_month,
        index_bytes,
        work.source_bytes,
        cluster.machines,
    )


def comparisons(nlist: int, constants: Constants) -> float:
    """Return the cost of assigning one vector, in comparisons with a centroid."""
    if nlist < FEWEST_LISTS:
        return float(nlist)
    return min(float(nlist), constants.grouped_scale * math.pow(nlist, constants.grouped_exponent))


def truth_rows(rows: float) -> float:
    """Return a worker's cost of comparing its first ``rows`` rows with queries, in later rows.

    The first rows cost more, because no bound on the neighbours is known yet. Measured with 1,000
    queries and 101 neighbours: 98,304 rows take 0.81 s of a thread, 1,000,000 rows 4.35 s.
    """
    return rows + min(rows, _TRUTH_START_ROWS)


@dataclass(frozen=True)
class _Model:
    work: Workload
    cluster: Cluster
    speed: Constants

    # ------------------------------------------------------------------ train

    def sample(self) -> Stage:
        """Each machine draws parts of the sample, and reads them again for a PCA.

        Near rows share a read; far rows take one read each.
        """
        work, speed, train = self.work, self.speed, self.work.train
        row = train.d * work.item_bytes
        machines = min(self._machines, sample_parts(train.sample, train.d))
        distance = work.source_bytes // train.sample  # in the source, between sampled rows
        together = distance <= GAP_BYTES
        read = work.source_bytes if together else train.sample * (row + _PAGE_BYTES)
        written = 4 * train.sample * train.d
        latency_s = 0.0 if together else train.sample * speed.read_latency_s
        again = written if train.transform.name.startswith("pca") else 0
        covariance_s = 4 * again / 4 * train.d / speed.flops / machines  # float64, on one thread
        parts = {
            "disk read": read / machines / speed.read_bytes,
            "disk latency": latency_s / machines / self.cluster.threads,
            "disk write": written / machines / speed.write_bytes + 2 * speed.sync_s,
            "memory": 3 * written / machines / speed.move_bytes,
            "one thread": max(covariance_s, again / machines / speed.read_bytes),
        }
        reading = max(parts["disk read"], parts["disk latency"])
        return Stage(
            "sample",
            max(reading, parts["disk write"]) + parts["memory"] + parts["one thread"],
            parts,
            read + again,
            written,
            0,
            draw_bytes(self.cluster.threads),
            written,
            machines,
        )

    def kmeans(self) -> Stage:
        """Every iteration sends centroids, assigns and sums parts, and writes a checkpoint.

        Each iteration reads and transforms the whole sample, but early ones assign only a part.
        """
        work, speed, train, machines = self.work, self.speed, self.work.train, self._machines
        rows = train.sample / machines
        sample_bytes = 4 * train.sample * train.d
        share = speed.iteration_share if train.nlist >= FEWEST_LISTS else 1.0
        compare = 2 * train.d_index * share * comparisons(train.nlist, speed) * rows
        transform = 0.0 if train.transform.name == "none" else 2 * train.d * train.d_index * rows
        options = KMeansOptions(train.nlist, train.niter, train.seed, False, 1)
        looked = sum(1 / stride_of(options, train.sample, i) for i in range(train.niter))
        looked /= train.niter
        flops = looked * compare + self._grouping_flops(PROBE // PROBE_PART)
        cpu = (
            flops / (speed.flops * self.cluster.threads)
            + transform / speed.flops  # blocks are transformed on one thread
            + looked * rows * train.d_index / (speed.sum_dims * self.cluster.threads)
        )
        fits = sample_bytes / machines < self.cluster.memory_bytes
        read = sample_bytes / machines / (speed.move_bytes if fits else speed.read_bytes)
        # A process receives the centroids, sends its sums, and receives the new centroids.
        each_sends = work.centroid_bytes + 2 * work.centroid_bytes if machines > 1 else 0
        written = work.centroid_bytes
        parts = {
            "processor": cpu,
            "disk read": read,
            "network": each_sends / speed.network_bytes,
            "disk write": written / speed.write_bytes + 3 * speed.sync_s,
            "one thread": _ITERATION_S + train.nlist * _LIST_S + 10 * written / speed.move_bytes,
        }
        seconds = max(cpu, read) + sum(
            parts[name] for name in ("network", "disk write", "one thread")
        )
        memory = training_bytes(train, self.cluster.threads)
        return Stage(
            "k-means",
            train.niter * seconds,
            {name: train.niter * value for name, value in parts.items()},
            train.niter * sample_bytes,
            train.niter * written,
            train.niter * machines * each_sends,
            memory,
            sample_bytes + 2 * work.centroid_bytes,
            machines,
        )

    def seal(self) -> Stage:
        """One process measures the assignment, trains the codec and builds the graph."""
        speed, train = self.speed, self.work.train
        flops = self._grouping_flops(PROBE)
        rows = codec_rows(train)
        flops += rows * 2 * train.d_index * comparisons(train.nlist, speed)
        graph = 0.0
        if train.nlist > EXACT_QUANTIZER_NLIST:
            graph = train.nlist * math.log2(train.nlist) * train.d_index / speed.graph_dims
        written = self._model_bytes()
        train_pq = 0.0
        if train.codec.kind == "pq":  # 25 iterations of Faiss on at most 256 vectors a centroid
            part = min(rows, 256 << train.codec.bits)
            train_pq = 25 * part * 2 * train.d_index * (1 << train.codec.bits) / speed.flops
        parts = {
            "processor": flops / (speed.flops * self.cluster.threads),
            "one thread": graph + train_pq + 4 * rows * train.d_index / speed.move_bytes,
            "disk read": rows * (4 * train.d + _PAGE_BYTES) / speed.read_bytes,
            "disk write": written / speed.write_bytes + 5 * speed.sync_s,
        }
        return Stage(
            "codec and graph",
            sum(parts.values()),
            parts,
            rows * 4 * train.d,
            written,
            0,
            training_bytes(train, self.cluster.threads),
            written,
        )

    # ------------------------------------------------------------------ shard

    def shard(self) -> Stage:
        """Each machine reads, assigns, encodes, sorts and writes ranges of rows."""
        work, speed, train, machines = self.work, self.speed, self.work.train, self._machines
        threads, shards = self.cluster.threads, self._shards()
        rows, files = work.ntotal / machines, shards / machines
        tables = shards * _TABLE_BYTES * train.nlist
        written = work.ntotal * work.row_bytes + tables
        transform = 0.0 if train.transform.name == "none" else 2 * train.d * train.d_index
        per_row = transform + 2 * train.d_index * comparisons(train.nlist, speed)
        encode_s = rows * self._encode_s() / threads
        compute = rows * per_row / (speed.flops * threads) + encode_s
        setup = self._grouping_flops(0) / (speed.flops * threads)
        setup += 6 * work.centroid_bytes / speed.move_bytes
        moved = (3 * work.ntotal * work.row_bytes + 2 * tables) / machines
        parts = {
            "processor": setup + compute,
            "disk read": (work.source_bytes / machines + self._model_bytes()) / speed.read_bytes,
            "disk write": written / machines / speed.write_bytes + files * 3 * speed.sync_s,
            "memory": moved / speed.move_bytes,
        }
        seconds = max(parts["processor"], parts["disk read"]) + parts["disk write"]
        seconds += parts["memory"]
        sent = machines * self._model_bytes() if machines > 1 else 0
        sorting = int(bytes_of_rows(work.code_size, rows / files))
        return Stage(
            "shard",
            seconds,
            parts,
            work.source_bytes + written + machines * self._model_bytes(),
            written,
            sent,
            min(self.cluster.memory_bytes, fixed_bytes(self._model_memory()) + sorting),
            written,
            machines,
        )

    # ------------------------------------------------------------------ merge

    def merge(self) -> Stage:
        """Each machine reads its slices' lists from every shard, and writes and checks them."""
        work, speed, train, machines = self.work, self.speed, self.work.train, self._machines
        shards, lists_bytes = self._shards(), work.index_bytes
        slices = slice_count(self.cluster.slices, train.nlist, lists_bytes)
        # Tables are read twice: once to add up sizes, and in parts for each slice.
        tables = 2 * shards * _TABLE_BYTES * train.nlist
        written = lists_bytes + _TABLE_BYTES * train.nlist
        elsewhere = (machines - 1) / machines
        busiest = min(slices, machines)
        share = math.ceil(slices / busiest) / slices  # work of the machine with the most slices
        read = lists_bytes + tables
        sent = int(elsewhere * read)
        parts = {
            "disk read": read * share / speed.read_bytes,
            "network": sent * share / speed.network_bytes,
            "disk write": written * share / speed.write_bytes + slices * share * 3 * speed.sync_s,
            "memory": (3 * lists_bytes + tables + 2 * written) * share / speed.move_bytes,
        }
        seconds = max(parts["disk read"], parts["network"])
        seconds += parts["disk write"] + parts["memory"]
        held = 8 * 8 * train.nlist + min(
            shards * 64 * math.ceil(train.nlist / slices), self.cluster.memory_bytes // 4
        )
        return Stage(
            "merge",
            seconds,
            parts,
            read + written,
            written,
            sent,
            held + self.cluster.memory_bytes // 4,
            2 * lists_bytes,
            busiest,
        )

    # ------------------------------------------------------------------ calibrate

    def truth(self) -> Stage:
        """Each machine compares its rows with the queries of the calibration.

        A row costs a product with every query and a comparison of the resulting bounds. Possible
        neighbours are computed again. Most of these come first, while a worker knows no
        neighbours yet.
        """
        work, speed, machines = self.work, self.speed, self._machines
        queries = CalibrationOptions().queries
        flops = 2 * work.train.d * queries * truth_rows(work.ntotal / machines)
        parts = {
            "processor": flops / (speed.truth_flops * self.cluster.threads),
            "disk read": work.source_bytes / machines / speed.read_bytes,
        }
        width = max(CalibrationOptions().ks) + 1
        return Stage(
            "true neighbours",
            max(parts.values()),
            parts,
            work.source_bytes,
            0,
            (machines - 1) * queries * width * 16,
            5 * 2 * _TRUTH_BLOCK_BYTES,
            0,
            machines,
        )

    def searches(self, most_s: float) -> Stage:
        """One process searches the same queries at growing effort, for at most ``most_s``.

        In two stages every k is searched for itself.

        Each effort is sqrt(2) times the one before: all of them together scan 3.4 times as much
        as the last one. The last effort is assumed to scan a 32nd of all vectors per query, the
        limit if recall stays below 0.99. If recall reaches 0.99, calibration ends earlier than
        predicted. Every effort reads each visited list once, unless the cache holds them all.
        """
        work, speed, train = self.work, self.speed, self.work.train
        queries, threads = CalibrationOptions().queries, self.cluster.threads
        codes = min(work.ntotal, codes_searched(work.ntotal))
        lists = max(1.0, codes * train.nlist / (work.imbalance * work.ntotal))
        count = max(_FEWEST_EFFORTS, int(2 * math.log2(lists)) + 1)
        efforts = [lists / _EFFORT_STEP**i for i in range(count)]
        visits = queries * sum(efforts)
        index_bytes = work.ntotal * work.scanned_bytes
        each = len(CalibrationOptions().ks) if train.codec.sketch_bits else 1
        reads = (
            sum(min(train.nlist, queries * each) for each in efforts) / train.nlist * index_bytes
        )
        if index_bytes <= self.cluster.memory_bytes // 3:  # half of what a batch leaves
            reads = min(reads, index_bytes)
        scanned = visits * work.imbalance * work.ntotal / train.nlist * train.d_index
        coarse_s = queries * len(efforts) * self._coarse_s(int(lists))
        parts = {
            "processor": each * (coarse_s + scanned / self._scan_dims()) / threads,
            "disk read": reads / speed.read_bytes,
            "memory": reads / speed.move_bytes / threads,  # checking
            "one thread": count * queries * max(CalibrationOptions().ks) * _RESULT_S,
        }
        seconds = max(parts["processor"] + parts["memory"], parts["disk read"])
        seconds += parts["one thread"]
        share = min(1.0, most_s / seconds)
        parts = {name: share * value for name, value in parts.items()}
        return Stage(
            "calibrating searches",
            share * seconds,
            parts,
            int(share * reads),
            0,
            0,
            self._count_open_bytes(),
        )

    # ------------------------------------------------------------------ search

    def query(self, queries: Queries) -> QueryPlan:
        """Predict a single cold query, and the rate of many queries.

        With codes in two stages the lists' sketches are read, then pages with the candidates'
        finer codes and ids. Otherwise the lists' codes, then the ids of lists with results.
        """
        work, speed, train = self.work, self.speed, self.work.train
        servers = self.cluster.servers or self._machines
        nprobe = min(queries.nprobe, train.nlist)
        list_codes = work.imbalance * work.ntotal / train.nlist
        reading = min(servers, max(1.0, nprobe))
        coarse = self._coarse_s(math.ceil(nprobe))
        codes = nprobe * list_codes * work.scanned_bytes
        refined = self._refined(queries, nprobe * list_codes)
        named = refined * work.page_bytes or min(queries.k, nprobe) * list_codes * ID_BYTES
        rounds = math.ceil(nprobe / servers / 8) + 1  # eight reads in flight; then what names them
        scanners = self.cluster.threads * reading
        compare = refined * (work.page_bytes / speed.move_bytes + train.d_index / speed.scan_dims)
        parts = {
            "coarse": coarse,
            "disk read": (codes + named) / (speed.read_bytes * reading),
            "disk latency": rounds * speed.read_latency_s,
            "scan": (nprobe * list_codes * train.d_index / self._scan_dims() + compare) / scanners,
        }
        whole = coarse + parts["scan"] * scanners
        each_bytes = work.index_bytes // servers
        opened = self._count_open_bytes()
        cached = min(1.0, max(0, self.cluster.memory_bytes - opened) / 2 / each_bytes)
        warm_qps = servers * self.cluster.threads / whole
        cold_qps = servers * speed.read_bytes / (codes + named)
        return QueryPlan(
            parts["coarse"] + parts["disk latency"] + max(parts["disk read"], parts["scan"]),
            parts,
            int(codes + named),
            math.ceil(nprobe),
            cold_qps,
            warm_qps,
            cached,
            warm_qps if cached == 1 else min(warm_qps, cold_qps / (1 - cached)),
            opened,
            opened + 2 * each_bytes,
            each_bytes,
        )

    def _refined(self, queries: Queries, scanned: float) -> float:
        """Return the candidates whose finer codes a query reads; 0 with one stage."""
        bits = self.work.train.codec.sketch_bits
        if not bits:
            return 0.0
        usual = (_REFINED_1_BIT if bits == 1 else _REFINED_2_BITS) * max(1.0, queries.k / 10)
        return min(usual if queries.refined is None else queries.refined, scanned)

    # ------------------------------------------------------------------ parts

    def _coarse_s(self, nprobe: int) -> float:
        """Return the seconds of one thread to find one query's lists."""
        train, speed = self.work.train, self.speed
        if train.nlist <= EXACT_QUANTIZER_NLIST:
            return 2 * train.nlist * train.d_index / speed.flops
        return max(64, 2 * nprobe) * 32 * train.d_index / speed.scan_dims

    def _count_open_bytes(self) -> int:
        """Return the memory of an open index, without cached lists."""
        return self.work.train.nlist * OPENED_LIST_BYTES + self._model_memory()

    @property
    def _machines(self) -> int:
        return self.cluster.machines

    def _grouping_flops(self, checked_rows: int) -> float:
        """Count the operations to group the centroids, and to set a margin by exact assignment."""
        train = self.work.train
        if train.nlist < FEWEST_LISTS:
            return 0.0
        groups = math.pow(train.nlist, 0.6)
        compared = min(_GROUPING * groups, 4 * train.nlist) * groups + train.nlist * groups
        return 2 * train.d_index * (compared + checked_rows * train.nlist)

    def _encode_s(self) -> float:
        """Return the seconds of one thread to encode a vector, both stages together."""
        codec, d, speed = self.work.train.codec, self.work.train.d_index, self.speed
        sketch = d / speed.encode_sketch if codec.sketch_bits else 0.0
        if codec.kind == "pq":
            return sketch + d * (1 << codec.bits) / speed.encode_pq
        return sketch + d / (speed.encode_rabitq if codec.kind == "rabitq" else speed.encode_scalar)

    def _scan_dims(self) -> float:
        """Return the dimensions a second that one thread scans, of the codes that are scanned."""
        codec, speed = self.work.train.codec, self.speed
        if codec.sketch_bits:
            return speed.scan_sketch
        if codec.kind == "pq":
            return speed.scan_tables * self.work.train.d_index / codec.m
        if codec.kind == "rabitq":
            return speed.scan_rabitq
        if codec.kind == "flat":
            return speed.scan_wide / _FLAT
        usual = {"fp16": speed.scan_wide, "sq8": speed.scan_dims}
        return usual.get(codec.usual_name, speed.scan_narrow)

    def _model_bytes(self) -> int:
        train = self.work.train
        graph = GRAPH_LIST_BYTES * train.nlist if train.nlist > EXACT_QUANTIZER_NLIST else 0
        return self.work.centroid_bytes + graph + 4 * train.d * train.d_index

    def _model_memory(self) -> int:
        return self.work.centroid_bytes + self._model_bytes()

    def _shards(self) -> int:
        """Return the number of shards: the user's or one per machine, or more for memory."""
        free = self.cluster.memory_bytes - fixed_bytes(self._model_memory())
        most = rows_in_memory(self.work.code_size, max(1, free))
        least = math.ceil(self.work.ntotal / most) if free > 0 else 1
        return min(self.work.ntotal, max(self.cluster.shards or self._machines, least))
