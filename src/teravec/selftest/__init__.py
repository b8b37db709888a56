"""The same small build by every route that an installation has, side by side."""
