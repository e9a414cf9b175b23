"""Serialization: what a value looks like in the store, on the wire and in memory."""

from cloudray.values.arguments import pack_arguments, unpack_arguments
from cloudray.values.codec import Serialized, dumps, loads, loads_from

__all__ = [
    "Serialized",
    "dumps",
    "loads",
    "loads_from",
    "pack_arguments",
    "unpack_arguments",
]
