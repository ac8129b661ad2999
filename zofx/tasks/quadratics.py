"""Quadratic models of an objective, from how the scores change along some directions.

    s_b(a) = s_b + J_b a                                     J: f64[Q, B, M]
    cross-entropy   g_b = J_bᵀ(p − e_gold)                   G_b = J_bᵀ(diag p − p pᵀ)J_b
    likelihood      g_b = −w t_b j_b                         G_b = w t_b² j_b j_bᵀ

p is the softmax over an example's candidates. The cross-entropy's G is the Hessian of the loss of
linear scores. A likelihood is linear in its scores, so its curvature is in the model's tokens, of
which a row tells the mean alone: t tokens of mean derivative j have the empirical Fisher matrix
t² j jᵀ, which is the Gauss–Newton matrix where the model predicts what it is trained on.
w = B / Σ t makes the mean over examples one over tokens.

Source: Schraudolph 2002; Martens 2020, New Insights and Perspectives on the Natural Gradient
Method, arXiv 1412.1193, §5 and §11 (the empirical Fisher).
"""

import numpy as np
from numpy.typing import NDArray

from zofx.tasks.rows import Encoded
from zofx.zo.gauss_newton import Quadratics
from zofx.zo.types import FloatArray

DoubleArray = NDArray[np.float64]


def derivatives(logprob: FloatArray, matrix: FloatArray) -> DoubleArray:
    """How scores change per unit of each direction, f64[Q, N, C].

    Args:
        logprob: f32[Q + 1, N, C], at θ and then at +ε along each direction, or the tangents.
        matrix: f32[Q + 1, Q] of the probes; f32[Q, Q] where the rest are exact tangents.
    """
    wide = logprob.astype(np.float64)
    if len(matrix) < len(logprob):
        return wide[1:]
    with np.errstate(invalid="ignore"):  # what is missing everywhere is dropped by its reader
        changes: DoubleArray = (wide[1:] - wide[0]) / np.diag(matrix[1:])[:, None, None]
    return changes


def of_examples(changes: DoubleArray, encoded: Encoded) -> DoubleArray:
    """J f64[Q, B, M] from f64[Q, N, C]; 0 where an example has no such candidate."""
    rows, columns = np.nonzero(encoded.row_candidate >= 0)
    jacobian = np.zeros((len(changes), *encoded.counts.shape))
    places = encoded.row_example[rows], encoded.row_candidate[rows, columns]
    jacobian[:, *places] = changes[:, rows, columns]
    return jacobian


def cross_entropy_model(scores: FloatArray, jacobian: DoubleArray, encoded: Encoded) -> Quadratics:
    """Of scores f32[B, M] and J f64[Q, B, M]; see the module."""
    wide = scores.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True)
    shares = np.exp(shifted) / sums
    gold = (np.arange(len(encoded.gold)), encoded.gold)
    loss = float((np.log(sums[:, 0]) - shifted[gold]).mean())
    mean = (jacobian * shares).sum(axis=-1)  # f64[Q, B]
    centred = jacobian - mean[..., None]
    curvatures = np.einsum("pbm,qbm,bm->bpq", centred, centred, shares)
    return Quadratics(loss, (mean - jacobian[:, *gold]).T, curvatures)


def likelihood_model(scores: FloatArray, jacobian: DoubleArray, encoded: Encoded) -> Quadratics:
    """Of the gold candidates' scores and derivatives; see the module."""
    gold = (np.arange(len(encoded.gold)), encoded.gold)
    tokens = encoded.counts[gold].astype(np.float64)
    share = len(tokens) / tokens.sum()
    loss = float(-(scores[gold].astype(np.float64) @ tokens) / tokens.sum())
    along = (jacobian[:, *gold] * tokens).T  # f64[B, Q], of all tokens
    return Quadratics(loss, -share * along, share * along[:, :, None] * along[:, None, :])
