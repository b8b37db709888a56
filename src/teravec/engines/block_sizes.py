"""How large the pieces are in which stages work."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["USUAL_SIZES", "BlockSizes"]


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of what a stage reads, adds up or hands to a worker at a time.

    The defaults suit data of any size and memory limits of any size. Other sizes let small data
    have several pieces.

    Parameters
    ----------
    sample_part_bytes : int
        Smallest file of the training sample. A small sample still has parts for a few workers.
        It decides the names of these files.
    sample_piece_bytes : int
        Vectors read from the source at a time, while the sample is drawn.
    training_block_bytes : int
        Vectors of the sample, float32, that k-means assigns and adds up at a time. It decides the
        order of additions, so the model: one that was begun is continued with the same size.
    moment_blocks : int
        Such blocks whose moments one task adds up, for a PCA; it decides the model likewise.
    counted_rows : int
        Evenly spaced rows of the sample that show which lists are too large. 2^22 of them show
        lists of 10^-5 of the source. It decides the model likewise.
    counted_task_rows : int
        Of these rows, those that one task counts.
    sum_bytes, least_sum_bytes : int
        Sums of k-means that go from worker to worker at a time, and the size below which
        the overhead of messages would show.
    truth_block_bytes : int
        Vectors of the source, float32, that are compared exactly at a time.
    truth_range_rows : int
        Fewest rows that a worker compares in one task.
    merge_window_bytes : int
        Lists of all shards that are concatenated at a time. The default is about a processor's
        last-level cache; larger is no faster.
    merge_read_bytes : int
        Read from each shard for such a window, at least: worth a seek of a spinning disk.
    merge_span_lists : int
        Most lists whose table entries of all shards are in memory at a time.
    id_block : int
        Ids read or examined at a time, while repeated ids are counted.
    """

    sample_part_bytes: int = 64 << 20
    sample_piece_bytes: int = 4 << 20
    training_block_bytes: int = 12 << 20
    moment_blocks: int = 32
    counted_rows: int = 1 << 22
    counted_task_rows: int = 1 << 17
    sum_bytes: int = 8 << 20
    least_sum_bytes: int = 1 << 20
    truth_block_bytes: int = 16 << 20
    truth_range_rows: int = 1 << 16
    merge_window_bytes: int = 16 << 20
    merge_read_bytes: int = 4 << 20
    merge_span_lists: int = 1 << 62
    id_block: int = 1 << 18


USUAL_SIZES = BlockSizes()
"""What users get."""
