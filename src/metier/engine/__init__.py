"""Where weights live and move: load, train, score, save. The one decoder is `metier.engine.decode`."""

from metier.engine.handle import AdapterSpec, Handle
from metier.engine.load import close, load, read_shape
from metier.engine.peft_files import export_adapter

__all__ = ["AdapterSpec", "Handle", "close", "export_adapter", "load", "read_shape"]
