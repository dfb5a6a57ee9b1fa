"""The version of this Aurora."""

__version__ = "0.1.0"
