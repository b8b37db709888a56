"""Builds the optional C kernels; everything else is in pyproject.toml.

Without a compiler the extension is left out and teravec.native falls back to NumPy.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"teravec.native.{name}",
            sources=[f"src/teravec/native/{name}.c"],
            depends=sorted(map(str, Path("src/teravec/native").glob("_*.h"))),
            # Fused operations are fast, but not every processor has them, and NumPy has none:
            # _linear and _waves do without.
            extra_compile_args=[
                "-O3",
                "-Wall",
                "-Wextra",
                f"-ffp-contract={'off' if name in ('_linear', '_waves') else 'fast'}",
            ],
            py_limited_api=True,
            optional=True,
        )
        for name in (
            "_linear",
            "_lists",
            "_native",
            "_pages",
            "_reads",
            "_refine",
            "_ring",
            "_scan",
            "_sketch",
            "_threads",
            "_waves",
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}, "build_ext": {"parallel": os.cpu_count()}},
)
