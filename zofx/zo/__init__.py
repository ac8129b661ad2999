"""The zeroth-order driver: numpy only, knows no graph."""

from zofx.zo.driver import Driver, StepLog
from zofx.zo.estimate import Estimate, Estimator, Probes
from zofx.zo.estimators import Curved, OnePoint, OneSided, Slopes, Spsa
from zofx.zo.journal import Header, Journal, Record
from zofx.zo.journal_writer import JournalWriter
from zofx.zo.laws import Basis, Law, Noise, RandomMask, Turn
from zofx.zo.moments import adam, diagonal_hessian, low_rank_momentum, momentum, past_adam
from zofx.zo.noise import Kind, Stream, normal_table, sample, sample_flat, slice_id
from zofx.zo.philox import philox_blocks
from zofx.zo.preflight import Preflight, preflight
from zofx.zo.rays import (
    RayRule,
    chain,
    clip,
    normalise_by_spread,
    past_momentum,
    scale_by_rms,
    scale_by_schedule,
    sign,
    stateless,
)
from zofx.zo.recipe import Descend, Measure, Objective, Recipe, Trial, scored
from zofx.zo.replay import Mover, replay
from zofx.zo.schedule import Schedule, constant
from zofx.zo.tensors import Gradient, TensorRule, chain_tensors, decay, sign_coordinates
from zofx.zo.types import FloatArray, IntArray, Key, Ray, key_words
from zofx.zo.update import apply_rays

__all__ = [
    "Basis",
    "Curved",
    "Descend",
    "Driver",
    "Estimate",
    "Estimator",
    "FloatArray",
    "Gradient",
    "Header",
    "IntArray",
    "Journal",
    "JournalWriter",
    "Key",
    "Kind",
    "Law",
    "Measure",
    "Mover",
    "Noise",
    "Objective",
    "OnePoint",
    "OneSided",
    "Preflight",
    "Probes",
    "RandomMask",
    "Ray",
    "RayRule",
    "Recipe",
    "Record",
    "Schedule",
    "Slopes",
    "Spsa",
    "StepLog",
    "Stream",
    "TensorRule",
    "Trial",
    "Turn",
    "adam",
    "apply_rays",
    "chain",
    "chain_tensors",
    "clip",
    "constant",
    "decay",
    "diagonal_hessian",
    "key_words",
    "low_rank_momentum",
    "momentum",
    "normal_table",
    "normalise_by_spread",
    "past_adam",
    "past_momentum",
    "philox_blocks",
    "preflight",
    "replay",
    "sample",
    "sample_flat",
    "scale_by_rms",
    "scale_by_schedule",
    "scored",
    "sign",
    "sign_coordinates",
    "slice_id",
    "stateless",
]
