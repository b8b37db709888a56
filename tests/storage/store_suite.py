"""What every store must do: inherit ``StoreSuite``, and give it a store."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from teravec.errors import AlreadyThere, CorruptFile, InvalidArgument, MissingFile
from teravec.storage.arrays import read_array, write_array
from teravec.storage.buffers import aligned_buffer
from teravec.storage.files import byte_view
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.listfile import ListFile, ListFileWriter, verify_lists
from teravec.storage.store import OpenFile, Ranges, Reader, Store, StorePath
from tests.storage.lists import header_of, random_lists

NAMES = ["a", "a/1", "a/10", "a/2", "ab/1", "b/c/d"]
"""Names of which some begin like others; "a" is left out where names are directories' too."""


def put(store: Store, name: str, data: bytes) -> None:
    """Publish a file of these bytes."""
    with store.publish(name) as file:
        file.write(data, 0)


def get(store: Store, name: str) -> bytes:
    """All bytes of a file."""
    with store.open(name) as file:
        return bytes(file.read(file.size, 0))


def random_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def _create_all(store: Store, names: list[str], data: bytes, ready: Any, out: Any) -> None:
    """Create each name, at the same moment as another process; report those that succeeded."""
    created = []
    for name in names:
        ready.wait()
        with suppress(AlreadyThere):
            store.create(name, data)
            created.append(name)
    out.put((data, created))


def _die_writing(store: Store, name: str) -> None:
    with store.publish(name) as file:
        file.write(random_bytes(5000), 0)
        file.sync()
        os.kill(os.getpid(), signal.SIGKILL)


class StoreSuite:
    """Tests of one implementation; ``store`` is empty and its own."""

    shared = True
    """Whether a copy of the store in another process has the same files."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def cut(self, store: Store, name: str, size: int) -> None:
        """Cut a sealed file short, behind the store's back."""
        raise NotImplementedError

    @pytest.fixture
    def reader(self, store: Store) -> Iterator[Reader]:
        reader = store.reader()
        yield reader
        reader.close()

    # ---------------------------------------------------------------- writing

    def test_a_file_appears_when_it_is_whole(self, store: Store) -> None:
        put(store, "d/e/f", b"old")
        with store.publish("d/e/f") as file:
            file.write(b"new content", 0)
            assert get(store, "d/e/f") == b"old"
            assert store.names() == ["d/e/f"]
        assert get(store, "d/e/f") == b"new content"
        assert store.size("d/e/f") == 11
        assert store.exists("d/e/f")

    def test_pieces_may_come_in_any_order(self, store: Store) -> None:
        data = random_bytes(30_000)
        with store.publish("f") as file:
            file.reserve(len(data))
            for start in (20_000, 0, 10_000):
                file.write(memoryview(data)[start : start + 10_000], start)
                file.sync()
        assert get(store, "f") == data

    def test_an_empty_file_is_a_file(self, store: Store) -> None:
        with store.publish("f"):
            pass
        assert (store.size("f"), get(store, "f"), store.names()) == (0, b"", ["f"])

    @pytest.mark.parametrize("before", [None, b"old"])
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, CorruptFile])
    def test_a_failing_body_changes_nothing(
        self, store: Store, before: bytes | None, error: type[BaseException]
    ) -> None:
        if before is not None:
            put(store, "d/f", before)
        with pytest.raises(error), store.publish("d/f") as file:  # noqa: PT012
            file.write(b"half", 0)
            raise error
        assert store.names() == ([] if before is None else ["d/f"])
        assert before is None or get(store, "d/f") == before
        put(store, "d/f", b"now")
        assert get(store, "d/f") == b"now"

    @pytest.mark.parametrize("before", [None, b"old"])
    def test_a_failing_verification_changes_nothing(
        self, store: Store, before: bytes | None
    ) -> None:
        seen = []

        def refuse(file: OpenFile) -> None:
            seen.append(bytes(file.read(file.size, 0)))
            assert store.names() == ([] if before is None else ["f"])
            raise CorruptFile("wrong")

        if before is not None:
            put(store, "f", before)
        with pytest.raises(CorruptFile, match="wrong"), store.publish("f", refuse) as file:
            file.write(b"new", 0)
        assert seen == [b"new"]
        assert store.names() == ([] if before is None else ["f"])
        assert before is None or get(store, "f") == before

    def test_a_killed_writer_leaves_the_name_as_it_was(self, store: Store) -> None:
        if not self.shared:
            pytest.skip("another process has other files")
        put(store, "d/old", b"old")
        spawn = multiprocessing.get_context("spawn")
        for name in ("d/old", "d/new"):
            process = spawn.Process(target=_die_writing, args=(store, name))
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        assert store.names() == ["d/old"]
        assert get(store, "d/old") == b"old"
        put(store, "d/new", b"shorter")
        assert get(store, "d/new") == b"shorter"
        store.remove_unfinished("d")
        assert store.names() == ["d/new", "d/old"]

    # ---------------------------------------------------------------- creating

    def test_a_name_is_created_once(self, store: Store) -> None:
        store.create("versions/1", b"first")
        store.create("versions/2", b"")
        for name, data in (("versions/1", b"second"), ("versions/2", b"x")):
            with pytest.raises(AlreadyThere, match=store.locate(name)):
                store.create(name, data)
        assert store.names() == ["versions/1", "versions/2"]
        assert (get(store, "versions/1"), get(store, "versions/2")) == (b"first", b"")
        put(store, "f", b"published")
        with pytest.raises(AlreadyThere):
            store.create("f", b"created")
        assert get(store, "f") == b"published"
        store.remove("versions/1")
        store.create("versions/1", b"again")
        assert get(store, "versions/1") == b"again"

    def test_of_many_threads_one_creates(self, store: Store) -> None:
        def create(number: int) -> bool:
            try:
                store.create("d/v", b"%d" % number)
            except AlreadyThere:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            for _ in range(10):
                won = [i for i, ok in enumerate(pool.map(create, range(8))) if ok]
                assert len(won) == 1
                assert get(store, "d/v") == b"%d" % won[0]
                assert store.names() == ["d/v"]
                store.remove("d/v")

    def test_of_two_processes_one_creates(self, store: Store) -> None:
        if not self.shared:
            pytest.skip("another process has other files")
        spawn = multiprocessing.get_context("spawn")
        names = [f"versions/{i}" for i in range(30)]
        ready, out = spawn.Barrier(2), spawn.Queue()
        both = [
            spawn.Process(target=_create_all, args=(store, names, data, ready, out))
            for data in (b"one" * 500, b"other" * 500)
        ]
        for process in both:
            process.start()
        created = dict(out.get(timeout=60) for _ in both)
        for process in both:
            process.join()
        assert store.names() == sorted(names)
        for name in names:
            winners = [data for data, mine in created.items() if name in mine]
            assert len(winners) == 1
            assert get(store, name) == winners[0]

    # ---------------------------------------------------------------- names

    def test_names_by_prefix(self, store: Store) -> None:
        names = NAMES[1:]
        for name in reversed(names):
            put(store, name, b"x")
        assert store.names() == names
        for prefix in ("a", "a/", "a/1", "ab", "b/c", "b/c/d", "b/c/d/", "none/", "z"):
            assert store.names(prefix) == [n for n in names if n.startswith(prefix)]

    def test_children_of_a_path(self, store: Store) -> None:
        for name in NAMES[1:]:
            put(store, name, b"x")
        root = StorePath(store, "")
        assert [path.name for path in (root / "a").children()] == ["a/1", "a/10", "a/2"]
        assert [path.name for path in root.children()] == NAMES[1:]
        assert (root / "b" / "c" / "d").exists()
        assert not (root / "b" / "c").exists()
        assert (root / "b" / "c" / "d").last_name == "d"

    @pytest.mark.parametrize("name", ["../f", "/f", "a/../f", "a//f", "./f", "a/", "a\0", ""])
    def test_names_outside_the_store_are_refused(self, store: Store, name: str) -> None:
        with pytest.raises(InvalidArgument, match="relative name"):
            put(store, name, b"x")
        with pytest.raises(InvalidArgument, match="relative name"):
            store.create(name, b"x")
        assert store.names() == []

    def test_a_missing_file_is_named(self, store: Store) -> None:
        put(store, "d/there", b"x")
        for name in ("f", "d/f", "d/there/f"):
            assert not store.exists(name)
            for read in (store.open, store.size):
                with pytest.raises(MissingFile, match=f"{store.locate(name)}: cannot read"):
                    read(name)

    # ---------------------------------------------------------------- removing

    def test_removing(self, store: Store) -> None:
        for name in NAMES[1:]:
            put(store, name, b"x")
        store.remove("b/c/d")
        store.remove("b/c/d")
        store.remove("none/f")
        assert store.names() == NAMES[1:-1]
        store.remove_all("a")
        assert store.names() == ["ab/1"]
        store.remove_all("a")
        store.remove_unfinished("a")
        assert store.names() == ["ab/1"]
        put(store, "a/1", b"again")
        assert get(store, "a/1") == b"again"

    def test_removing_beside_writing(self, store: Store) -> None:
        """One thread removes the only file of a parent, while another publishes there."""

        def write(number: int) -> None:
            name = f"d/e/{number}"
            put(store, name, b"%d" % number)
            assert get(store, name) == b"%d" % number
            store.remove(name)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(200)))
        assert store.names() == []

    # ---------------------------------------------------------------- reading

    def test_reads_are_exact(self, store: Store) -> None:
        data = random_bytes(100_000)
        put(store, "f", data)
        with store.open("f") as file, store.open("f", in_order=True) as other:
            assert file.size == other.size == len(data)
            for length, offset in ((100_000, 0), (1, 99_999), (5000, 700), (0, 100_000), (0, 7)):
                assert file.read(length, offset) == data[offset : offset + length]
                assert other.read(length, offset) == data[offset : offset + length]
            parts = [bytearray(n) for n in (3, 0, 4000, 1)]
            file.read_scattered([memoryview(part) for part in parts], 11)
            assert b"".join(parts) == data[11 : 11 + 4004]
            file.close()  # closed again at the end

    def test_reads_past_the_end_name_the_file(self, store: Store) -> None:
        put(store, "d/f", b"0123456789")
        with store.open("d/f") as file:
            for length, offset in ((11, 0), (1, 10), (5, 8), (1, 99)):
                with pytest.raises(CorruptFile, match=f"{store.locate('d/f')}: ends at byte"):
                    file.read(length, offset)
            with pytest.raises(CorruptFile, match=store.locate("d/f")):
                file.read_scattered([memoryview(bytearray(n)) for n in (4, 7)], 0)

    def ranges(self, store: Store, count: int, seed: int) -> tuple[Ranges, np.ndarray, list[bytes]]:
        """Random ranges of three files that are open, the last beyond a file's end; their bytes."""
        unit, rng = max(store.alignment, 64), np.random.default_rng(seed)
        contents = [random_bytes(200 * unit + 77, seed=i) for i in range(3)]
        opened = []
        for number, data in enumerate(contents):
            name = f"ranges/{number}"
            if not store.exists(name):
                put(store, name, data)
            opened.append(store.open(name))
        starts, lengths = rng.integers(0, 190, count), rng.integers(1, 12, count)
        file_nos = np.sort(rng.integers(0, 3, count))
        starts[-1], lengths[-1] = 195, 11
        at = np.cumsum(lengths) - lengths
        columns = (values * unit for values in (starts, lengths, at))
        ranges = Ranges(store.group(opened), file_nos, *columns)
        items = list(map(ranges.one, range(count)))
        expected = [
            contents[number][item.offset : item.offset + item.length]
            for number, item in zip(file_nos.tolist(), items, strict=True)
        ]
        return ranges, aligned_buffer(int(lengths.sum()) * unit), expected

    def close(self, ranges: Ranges) -> None:
        for number in range(len(ranges.files)):
            ranges.files[number].close()

    @pytest.mark.parametrize("count", [1, 3, 100])
    def test_ranges_are_exact(self, store: Store, reader: Reader, count: int) -> None:
        ranges, buffer, expected = self.ranges(store, count, seed=count)
        stops, start = sorted({1, 1 + count // 2, count}), 0
        for stop in reader.filled(ranges, buffer, stops):
            assert stop in stops
            assert stop > start
            for i in range(start, stop):
                item = ranges.one(i)
                assert item.needed == len(expected[i])
                assert buffer[item.at : item.at + item.needed].tobytes() == expected[i]
            start = stop
        assert start == count
        self.close(ranges)

    def test_nothing_is_written_after_reading_ended(self, store: Store, reader: Reader) -> None:
        ranges, buffer, _ = self.ranges(store, 90, seed=5)
        arriving = reader.filled(ranges, buffer, [1, 90])
        next(arriving)
        arriving.close()
        buffer[:] = 7
        again, other, _ = self.ranges(store, 9, seed=6)
        reader.read(again, other)
        assert (buffer == 7).all()
        self.close(ranges)
        self.close(again)

    def test_threads_share_files_and_reader(self, store: Store, reader: Reader) -> None:
        ranges, buffer, expected = self.ranges(store, 40, seed=9)

        def read(_: int) -> None:
            mine = aligned_buffer(len(buffer))
            reader.read(ranges, mine)
            for item, data in zip(map(ranges.one, range(40)), expected, strict=True):
                assert mine[item.at : item.at + item.needed].tobytes() == data
                assert item.file.read(item.needed, item.offset) == data

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(read, range(24)))
        self.close(ranges)

    def test_a_file_cut_after_it_was_opened_is_found(self, store: Store, reader: Reader) -> None:
        ranges, buffer, _ = self.ranges(store, 30, seed=3)
        self.cut(store, "ranges/2", 100)
        with pytest.raises(CorruptFile, match=f"{store.locate('ranges/2')}: ends at byte"):
            reader.read(ranges, buffer)
        self.close(ranges)

    # ---------------------------------------------------------------- the store itself

    def test_what_reading_is_worth(self, store: Store) -> None:
        assert store.gap_bytes > 0 or store.gap_bytes == -1
        assert store.depth > 0
        assert store.alignment > 0
        assert store.alignment & (store.alignment - 1) == 0
        assert store.locate("a/b").endswith("a/b")

    def test_file_formats_on_it(self, store: Store) -> None:
        root = StorePath(store, "")
        content = {"format": "x", "version": 1, "values": [1, 2]}
        write_json(root / "a.json", content)
        assert read_json(root / "a.json", "x", 1) == content
        array = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
        described = write_array(root / "d" / "a.npy", array)
        np.testing.assert_array_equal(read_array(root / "d" / "a.npy", described), array)
        lists = random_lists([3, 0, 40, 1], 6, seed=1)
        path = root / "slices" / "0.lists"
        with path.publish(verify_lists) as file:
            writer = ListFileWriter(file, header_of(lists), lists.sizes)
            writer.write(lists.codes, lists.ids)
            seal = writer.finish()
        with ListFile(path) as found:
            assert found.seal == seal
            codes = found.read_codes(0, len(lists.codes))
            assert byte_view(codes) == byte_view(lists.codes)
        verify_lists(path)
        self.cut(store, path.name, 200)
        with pytest.raises(CorruptFile, match=f"{path}: 200 bytes found"):
            verify_lists(path)
