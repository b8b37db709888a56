"""Builds the optional C kernels; everything else is in pyproject.toml.

Without a compiler the extension is left out and teravec.kernels falls back to NumPy.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"teravec.kernels.{name}",
            sources=[f"src/teravec/kernels/{name}.c"],
            depends=[
                "src/teravec/kernels/_native_common.h",
                "src/teravec/kernels/_native_select.h",
                "src/teravec/kernels/_codes.h",
                "src/teravec/kernels/_codes_kernels.h",
                "src/teravec/kernels/_candidate.h",
                "src/teravec/kernels/_sketch_kept.h",
                "src/teravec/kernels/_sketch_view.h",
                "src/teravec/kernels/_xxh3.h",
                f"src/teravec/kernels/{name}_kernels.h",
            ],
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-ffp-contract=fast"],
            py_limited_api=True,
            optional=True,
        )
        for name in ("_native", "_pages", "_refine", "_scan", "_sketch")
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
