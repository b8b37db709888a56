"""Where vectors come from: files read as one matrix, by row ranges, in bounded memory."""

from teravec.sources.matrix import Block, Source, SourceFile, SourceFiles, open_source
from teravec.sources.weights import Weights

__all__ = ["Block", "Source", "SourceFile", "SourceFiles", "Weights", "open_source"]
