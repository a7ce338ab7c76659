"""Fitted weights: where the search for them begins, how sure they are, and a table of them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.irl.network import Array, Features, RoadNetwork

_ROW_SUM = 0.95  # largest sum of exp(r) over the edges that leave a state, where a fit begins
_FLAT = 1e-9  # eigenvalue of the correlation-like matrix below which a direction is not identified
_INVOLVED = 0.02  # size of a feature's part in such a direction from which it is named


@dataclass(frozen=True)
class WeightTable:
    """What ``summary`` prints: one row per feature. All but ``names`` are (K,); ``ratios`` have errors by the delta method."""

    names: Sequence[str]
    weights: Array
    errors: Array
    ratios: Array
    ratio_errors: Array
    relative_to: str | None

    @property
    def t(self) -> Array:
        """(K,): weight / error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.weights / self.errors

    def __str__(self) -> str:
        columns = [("weight", self.weights, "{:.6g}"), ("error", self.errors, "{:.3g}"), ("t", self.t, "{:.2f}")]
        if self.relative_to is not None:
            columns += [("ratio", self.ratios, "{:.4g}"), ("its error", self.ratio_errors, "{:.2g}")]
        cells = [["feature", *self.names]]
        cells += [[name, *(form.format(value) for value in values)] for name, values, form in columns]
        widths = [max(map(len, column)) for column in cells]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in zip(*cells, strict=True)
        ]
        lines.insert(1, "-" * len(lines[0]))
        if self.relative_to is not None:
            lines.append(f"ratio: to {self.relative_to}")
        return "\n".join(lines)


def as_weights(network: RoadNetwork, name: str, weights: ArrayLike) -> Array:
    """(K,).

    :param name: of the argument, for the message
    :raises ValueError: ``weights`` has another shape, or is not finite
    """
    array = np.array(weights, dtype=np.float64)
    if array.shape != (network.n_features,) or not np.isfinite(array).all():
        raise ValueError(
            f"{name} must hold a finite number for each of the {network.n_features} features, got "
            f"{array if array.size <= 8 else array.shape}"
        )
    return array


def weight_table(
    names: Sequence[str], weights: Array, covariance: Array, errors: Array, relative_to: int | None, worth: float
) -> WeightTable:
    """
    :param covariance: (K, K)
    :param relative_to: the feature whose weight is worth ``worth``, or None
    """
    ratios = ratio_errors = np.full(len(weights), np.nan)
    unit = None
    if relative_to is not None:
        base = weights[relative_to]
        if base == 0:
            raise ValueError(
                f"the weight of {names[relative_to]!r} is 0: nothing can be measured by it, choose another feature"
            )
        ratios = worth * weights / base
        # d (w_k / w_b) = dw_k / w_b - w_k dw_b / w_b^2
        variance = np.diag(covariance) - 2 * weights / base * covariance[:, relative_to]
        variance = variance + (weights / base) ** 2 * covariance[relative_to, relative_to]
        ratio_errors = np.where(np.isfinite(errors), abs(worth / base) * np.sqrt(np.maximum(variance, 0)), errors)
        unit = f"{names[relative_to]}" + ("" if worth == 1 else f" = {worth:g}")
    return WeightTable(names, weights, errors, ratios, ratio_errors, unit)


def feature_scales(features: Features) -> Array:
    """(K,): the root mean square of each feature over the edges, 1 for a feature that is 0 everywhere."""
    if isinstance(features, np.ndarray):
        squares = np.einsum("ek,ek->k", features, features)
    else:
        squares = np.asarray(features.multiply(features).sum(axis=0)).ravel()
    scales = np.sqrt(squares / features.shape[0])
    return np.where(scales > 0, scales, 1.0)


def start_weights(network: RoadNetwork, signed: bool = False) -> Array:
    """Weights (K,) with which every edge costs something and every row sum of exp(r) is below 1, so that z is finite.

    The edges' costs are as equal as the features allow, and as small as the row sums allow: there the model is uncertain, and
    its curvature says much. Where that leaves an edge without cost, features that are never negative get -1 / mean |f_k|.

    :param signed: the latter in any case: no weight of such a feature is 0, where multiplicative updates would leave it
    :raises ValueError: an edge has none of the features that can be made costly
    """
    direction = _equal_costs(network)
    if signed or not (network.rewards(direction) < 0).all():
        direction = _signed_costs(network)
    rewards = network.rewards(direction)
    for edge in np.flatnonzero(~(rewards < 0)):
        raise ValueError(
            f"{network.name_edge(int(edge))} has only zeros among the features that are never negative, so that it would cost "
            "nothing: give every edge a constant feature (1 each), or the fit initial_weights"
        )

    def fits(log2_s: float) -> bool:
        return bool(np.bincount(network.tail, np.exp(2.0**log2_s * rewards)).max() < _ROW_SUM)

    low, high = -20.0, 0.0
    while not fits(high):
        low, high = high, high + 1
    while high - low > 0.05 and not fits(low):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return 2.0**high * direction


def _equal_costs(network: RoadNetwork) -> Array:
    """(K,): the weights that come closest to a reward of -1 on each edge, by least squares with a small ridge."""
    scales = feature_scales(network.features)
    gram = network.features.T @ network.features
    gram = (gram if isinstance(gram, np.ndarray) else gram.toarray()) / np.outer(scales, scales) / network.n_edges
    sums = network.feature_counts(np.ones(network.n_edges)) / scales / network.n_edges
    return -np.linalg.solve(gram + 1e-6 * np.eye(len(sums)), sums) / scales


def _signed_costs(network: RoadNetwork) -> Array:
    """(K,): -1 / mean |f_k| for features that are never negative, 1 / mean |f_k| for those never positive, 0 for others."""
    features = network.features
    if isinstance(features, np.ndarray):
        low, high, mean = features.min(axis=0), features.max(axis=0), np.abs(features).mean(axis=0)
    else:
        low, high = (part.toarray().ravel() for part in (features.min(axis=0), features.max(axis=0)))
        mean = np.asarray(abs(features).mean(axis=0)).ravel()
    sign = np.where(low >= 0, -1.0, np.where(high <= 0, 1.0, 0.0)) * (mean > 0)
    return sign / np.where(mean > 0, mean, 1.0)


def covariance_of(information: Array, scales: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """Covariance matrix (K, K) of the weights, their errors (K,), and the features that are not identified.

    :param information: (K, K) the information matrix, in units of weights times ``scales``
    :return: where some directions are not identified, the pseudo-inverse, and infinite errors for the features in them
    """
    diagonal = np.sqrt(np.diag(information))
    size = np.where(diagonal > 0, diagonal, 1.0)
    eigenvalues, vectors = np.linalg.eigh(information / np.outer(size, size))
    flat = eigenvalues <= _FLAT * max(float(eigenvalues[-1]), np.finfo(float).tiny)
    inverse = (vectors[:, ~flat] / eigenvalues[~flat]) @ vectors[:, ~flat].T
    units = size * scales
    covariance = inverse / np.outer(units, units)
    involved = (np.abs(vectors[:, flat]) > _INVOLVED).any(axis=1)
    errors = np.where(involved, np.inf, np.sqrt(np.maximum(np.diag(covariance), 0)))
    return covariance, errors, np.flatnonzero(involved)


def warn_of_unidentified(names: Sequence[str], involved: ArrayLike) -> None:
    """Warn that the data do not determine the weights of some features, with their names."""
    listed = ", ".join(repr(names[k]) for k in np.asarray(involved))
    if listed:
        warnings.warn(
            f"the features {listed} are collinear along the paths (or always 0): their weights are not identified, other ones "
            "give the same probabilities, and their errors are infinite; leave one of them out",
        )
