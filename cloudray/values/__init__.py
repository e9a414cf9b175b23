"""Serialization: what a value looks like in the store, on the wire and in memory."""

from cloudray.values.codec import Serialized, dumps, loads, loads_from
from cloudray.values.arguments import pack_arguments, unpack_arguments

__all__ = [
    "Serialized",
    "dumps",
    "loads",
    "loads_from",
    "pack_arguments",
    "unpack_arguments",
]
