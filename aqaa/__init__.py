"""AQAA: a spoken question gets a spoken answer, end to end."""

__version__ = "0.1.0"
