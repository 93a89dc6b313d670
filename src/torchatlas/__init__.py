"""torchatlas"""
from .api import capture
__version__ = "0.1.0"
