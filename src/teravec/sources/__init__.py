"""Where vectors come from: files read as one matrix, by row ranges, in bounded memory."""

from teravec.sources.conversion import spans
from teravec.sources.matrix import Block, Source, SourceFile, SourceFiles, open_source

__all__ = ["Block", "Source", "SourceFile", "SourceFiles", "open_source", "spans"]
