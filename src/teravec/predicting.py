"""The package's functions that predict: advise, and plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from teravec.advising.advice import Advice, Bounds
from teravec.advising.advising import AdviseOptions, find_advice
from teravec.arguments import real_number, whole_number
from teravec.bulk.given import opened, read_whole
from teravec.changing import parse_age
from teravec.errors import InvalidArgument
from teravec.granting import resources
from teravec.index.calibration import check_recall, read_calibration
from teravec.index.info import describe_index
from teravec.index.opened import OpenedIndex
from teravec.memory import parse_bytes
from teravec.planning.constants import read_constants, with_rates
from teravec.planning.machines import Machine, find_machine, machine_of
from teravec.planning.planned import Planned, machines_within, make_plan
from teravec.planning.typical import (
    Known,
    find_typical,
    known_of_advice,
    known_of_index,
    queries_for,
)
from teravec.planning.workload import Cluster, Prices, Workload
from teravec.processors import check_threads
from teravec.progress import Progress
from teravec.sources import Data, PathLike, are_paths
from teravec.staging import training_options
from teravec.storage.places import PlaceLike, place_of

__all__ = ["advise", "plan"]


def advise(
    data: Data,
    *,
    recall: float = 0.95,
    k: int = 10,
    memory: str | int | None = None,
    bytes_per_vector: float | None = None,
    latency: float | None = None,
    queries: Data | None = None,
    metric: str = "l2",
    nlist: int | str | None = "auto",
    codecs: Sequence[str] | str | None = None,
    transform: str | None = None,
    seconds: float = 300.0,
    machine: str | None = None,
    threads: int | None = None,
    vector_column: str | None = None,
    query_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    niter: int = 10,
    seed: int = 1234,
    progress: Progress | bool | None = None,
) -> Advice:
    """Try codecs, transforms and numbers of lists on a sample, and foresee full indexes of them.

    The sample is trained on as the build would, at most 64 vectors for each list. The 200 nearest
    vectors of 1,000 queries are found in all of the data and indexed along with it, so that recall
    is measured at full density. Sample, neighbours and the rows compared take at most half of the
    memory. See docs/choosing.md for what is foreseen, and how well.

    Parameters
    ----------
    data : path-like, array-like, table, data frame or stream
        The vectors, in any form that ``build`` takes.
    recall : float
        Recall of the k nearest that searches will ask for.
    k : int
    memory : str or int, optional
        Memory of the machine that builds and searches, as "8GiB": half of it keeps lists between
        queries. Not given: every query reads its lists from disk, and this call takes as much
        memory as ``build`` would.
    bytes_per_vector : float, optional
        Most bytes of the index for each vector.
    latency : float, optional
        Most seconds of a query alone. The smallest index that meets it is then the best.
    queries : optional
        Typical queries. Not given: rows of the data outside of the sample.
    metric, nlist, transform, threads, vector_column, format, skip_bad, niter, seed
        As for ``build``. A given nlist is the only one that is tried.
    query_column : str, optional
        Column of the queries' vectors, if it differs.
    codecs : sequence of str or str, optional
        Try only these, as "sq8,sq6", with ``transform``. Not given: those that are usual.
    seconds : float
        Time limit. What is begun is finished; choices that no time is left for are listed.
    machine : str, optional
        Machine whose speeds times are predicted with; see ``plan``. Not given: this one, if it was
        measured, else the default one.
    progress : Progress or bool, optional

    Returns
    -------
    Advice
        A sequence of ``Option``, the best first. It prints as a table; ``.best`` is the option to
        take, ``.command`` the command that builds it.

    Raises
    ------
    InvalidArgument
        There are fewer than 1,000 vectors, or an option is wrong.
    MemoryLimitTooSmall
    """
    bounds = Bounds(
        check_recall(recall),
        whole_number(k, "k", 1, 100),
        None if memory is None else parse_bytes(memory),
        bytes_per_vector,
        latency,
    )
    seconds = real_number(seconds, "seconds", 1.0, 1e7, "a number from 1")
    granted = resources(memory, threads, progress)
    named = codecs.split(",") if isinstance(codecs, str) else codecs or ()
    train = training_options(nlist, metric, transform, "fp16", None, niter, seed, None)
    options = AdviseOptions(train, bounds, seconds, tuple(named))
    with opened(
        data, granted, None, vector_column=vector_column, format=format, skip_bad=skip_bad
    ) as source:
        asked = None
        if queries is not None:
            asked = read_whole(
                queries,
                granted,
                "queries",
                query_column=query_column,
                vector_column=vector_column,
                format=format,
            )
        return find_advice(
            source,
            options,
            granted,
            find_machine(machine).constants,
            queries=asked,
            command=_command(data, metric),
            item_bytes=source.exact_dtype.itemsize,
        )


def plan(
    ntotal: float,
    d: int,
    *,
    nlist: int | str | None = "auto",
    codec: str = "sq8",
    metric: str = "l2",
    transform: str | None = None,
    sample: int | None = None,
    niter: int = 10,
    recall: float | None = None,
    nprobe: float | None = None,
    k: int = 10,
    like: str | None = None,
    index: PlaceLike | None = None,
    advice: Advice | dict[str, Any] | None = None,
    machine: str | None = None,
    machines: int = 1,
    threads: int | None = None,
    memory: str | int | None = None,
    servers: int | None = None,
    shards: int | None = None,
    slices: int | None = None,
    within: str | timedelta | None = None,
    item_bytes: int = 4,
    imbalance: float = 1.5,
    machine_hour: float = 0.0,
    disk_month: float = 0.0,
    constants: PathLike | None = None,
    rates: Mapping[str, float] | None = None,
) -> Planned:
    """Predict time, bytes, memory, disk and cost of a build, and of a query.

    Nothing is read or measured: speeds are those of a named machine.

    Parameters
    ----------
    ntotal, d : int
        Vectors, as 10**9 or 1.5e12, and their dimensions.
    nlist, codec, metric, transform, sample, niter, shards, slices
        As for ``build``.
    recall : float, optional
        Recall of the k nearest that searches ask for. Not given: 0.9.
    nprobe : float, optional
        Instead of a recall: lists that a query visits.
    k : int
    like : {"descriptors", "sentences", "words"}, optional
        Typical data whose lists for a recall are taken. Not given: descriptors.
    index : path-like, optional
        Take them from the calibration of this index of similar data, of any size.
    advice : Advice or dict, optional
        Take them, codec, transform and lists from ``advise`` on similar data, or from what
        ``teravec advise --json`` printed.
    machine : str, optional
        Machine whose speeds are taken, with its threads and memory; "this" is the one that
        ``teravec plan --calibrate`` measured. Not given: this one, if it was measured, else
        "epyc"; docs/scale.md lists them.
    machines : int
        How many, one process on each.
    threads : int, optional
        Threads of each. Not given: the machine's.
    memory : str or int, optional
        Memory of each process, which builds and serves. Not given: the machine's.
    servers : int, optional
        Machines that answer queries. Not given: all.
    within : str or timedelta, optional
        Find how many machines build within this time, as "6h", instead of ``machines``.
    item_bytes : {1, 2, 4}
        Bytes of an element of the source.
    imbalance : float
        Expected imbalance; 1 is even lists.
    machine_hour, disk_month : float
        Prices of a machine's hour, and of 10^9 bytes for a month.
    constants : path-like, optional
        File of speeds, as ``plan --calibrate --constants`` writes it, instead of a machine's.
    rates : mapping of str to float, optional
        Other speeds for some constants, as ``{"read_bytes": 3e9}``.

    Returns
    -------
    Planned
        It prints with the headline first; ``.plan`` has every number, ``.to_arrow()`` the stages.

    Raises
    ------
    InvalidArgument
        An option is wrong, or no number of machines is enough.
    """
    check_threads(threads)
    chosen = _machine(machine, constants)
    if rates:
        chosen = replace(chosen, constants=with_rates(chosen.constants, rates))
    given = advice.content() if isinstance(advice, Advice) else advice
    if given is not None and (best := given.get("best")):
        codec = best["codec"]
        transform = None if best["transform"] == "usual" else best["transform"]
    work = Workload.of(
        _count(ntotal),
        whole_number(d, "d", 1),
        training_options(nlist, metric, transform, codec, sample, niter, 1234, None),
        item_bytes=item_bytes,
        imbalance=imbalance,
    )
    cluster = Cluster(
        machines,
        threads or chosen.threads,
        chosen.memory_bytes if memory is None else parse_bytes(memory),
        shards,
        slices,
        servers,
    )
    known = _known(like, index, given, k)
    queries = queries_for(recall, nprobe, k, known, work.ntotal, work.train.nlist)
    planned = make_plan(work, cluster, queries, Prices(machine_hour, disk_month), chosen)
    return planned if within is None else _within(planned, within)


def _machine(name: str | None, constants: PathLike | None) -> Machine:
    if constants is None:
        return find_machine(name)
    if name is not None:
        raise InvalidArgument("machine and constants given; one expected")
    path = Path(constants)
    return machine_of(read_constants(path), path)


def _count(ntotal: float) -> int:
    number = real_number(ntotal, "ntotal", 1, expected="a whole number as 1.5e12")
    if number != int(number):
        raise InvalidArgument(f"ntotal is {ntotal!r}; a whole number as 1.5e12 expected")
    return int(ntotal)


def _known(
    like: str | None, index: PlaceLike | None, advice: dict[str, Any] | None, k: int
) -> Known:
    if sum(each is not None for each in (like, index, advice)) > 1:
        raise InvalidArgument("more than one of like, index and advice given; one expected")
    if advice is not None:
        return known_of_advice(advice)
    if index is None:
        return find_typical(like)
    with OpenedIndex(place_of(index, "the index")) as opened:
        calibration = read_calibration(opened.paths, opened.manifest)
        if calibration is None:
            raise InvalidArgument(f"{opened.paths} is not calibrated: run teravec calibrate")
        return known_of_index(describe_index(opened), calibration, k)


def _within(planned: Planned, within: str | timedelta) -> Planned:
    limit = within if isinstance(within, timedelta) else parse_age(within)
    found = machines_within(planned, limit.total_seconds())
    if found is None:
        most = planned.on(1 << 14)
        slowest = max((s for s in most.plan.stages if s.machines == 1), key=lambda s: s.seconds)
        raise InvalidArgument(
            f"no number of machines builds this within {within}: {slowest.name!r}, which one "
            f"machine does alone, takes {slowest.seconds / 3600:.2f} h; ask for fewer lists, or "
            "another machine"
        )
    return found


def _command(data: Data, metric: str) -> list[str]:
    paths = are_paths(data)
    if paths is None:
        named = ["DATA"]
    else:
        named = [str(path) for path in (paths if isinstance(paths, list | tuple) else [paths])]
    words = ["teravec", "build", *named, "--out", "INDEX"]
    return words if metric == "l2" else [*words, "--metric", metric]
