"""Devices and their limits: peak rates by data type, memory bandwidth, memory, launch overhead.

The table is compiled from the vendors' data sheets, each row with the document that it goes back
to; docs/roofline.md says which figures were compared with what text. Rates are dense: data sheets
often print the double, "with sparsity". What is not known is left out; `Device` takes numbers of
your own, and `load` a file of measured ones.
"""

from .files import load, save
from .limits import RATES, SHAPES, Device
from .lookup import find, resolve
from .table import DEVICES

__all__ = ["DEVICES", "RATES", "SHAPES", "Device", "find", "load", "resolve", "save"]
