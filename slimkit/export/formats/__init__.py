"""Formats of other engines, each through the converter that people trust, one file a converter."""

from slimkit.export.formats.catalogue import FORMATS
from slimkit.export.formats.source import Format, Source, absent

__all__ = ["FORMATS", "Format", "Source", "absent"]
