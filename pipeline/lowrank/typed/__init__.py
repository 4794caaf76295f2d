"""Typed objects: options that are checked where they are given, records that are read back as the
types that were written."""

from pipeline.lowrank.typed.options import (
    explained,
    keywords_checked,
    knob,
    knob_names,
    options,
    options_from,
    plain,
)
from pipeline.lowrank.typed.records import from_json, load_record, save_record

__all__ = [
    "explained",
    "from_json",
    "keywords_checked",
    "knob",
    "knob_names",
    "load_record",
    "options",
    "options_from",
    "plain",
    "save_record",
]
