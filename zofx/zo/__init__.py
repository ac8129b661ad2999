"""The zeroth-order driver: numpy only, knows no graph."""

from zofx.zo.driver import Driver, StepLog
from zofx.zo.estimators import Estimate, Estimator, OnePoint, OneSided, Probes, Spsa
from zofx.zo.journal import Header, Journal, Record
from zofx.zo.journal_writer import JournalWriter
from zofx.zo.noise import Kind, Stream, normal_table, sample, sample_flat, slice_id
from zofx.zo.philox import philox_blocks
from zofx.zo.preflight import Preflight, preflight
from zofx.zo.rays import (
    RayRule,
    chain,
    clip,
    normalise_by_spread,
    scale_by_rms,
    scale_by_schedule,
    sign,
    stateless,
)
from zofx.zo.recipe import Objective, Recipe
from zofx.zo.replay import Mover, replay
from zofx.zo.schedule import Schedule, constant
from zofx.zo.tensors import TensorRule, adam, chain_tensors, decay, momentum
from zofx.zo.types import FloatArray, IntArray, Key, Ray, key_words
from zofx.zo.update import apply_rays

__all__ = [
    "Driver",
    "Estimate",
    "Estimator",
    "FloatArray",
    "Header",
    "IntArray",
    "Journal",
    "JournalWriter",
    "Key",
    "Kind",
    "Mover",
    "Objective",
    "OnePoint",
    "OneSided",
    "Preflight",
    "Probes",
    "Ray",
    "RayRule",
    "Recipe",
    "Record",
    "Schedule",
    "Spsa",
    "StepLog",
    "Stream",
    "TensorRule",
    "adam",
    "apply_rays",
    "chain",
    "chain_tensors",
    "clip",
    "constant",
    "decay",
    "key_words",
    "momentum",
    "normal_table",
    "normalise_by_spread",
    "philox_blocks",
    "preflight",
    "replay",
    "sample",
    "sample_flat",
    "scale_by_rms",
    "scale_by_schedule",
    "sign",
    "slice_id",
    "stateless",
]
