"""Files of route models, without pickle: a fitted model, of numbers and JSON, and the best weights of a fit under way."""

import json
import pathlib
import zlib
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.sparse import csr_array

from sb3_mirl.common.files import read_arrays, write_whole
from sb3_mirl.irl.network import Array, RoadNetwork
from sb3_mirl.irl.trips import Trips

if TYPE_CHECKING:
    from sb3_mirl.irl.routes import MaxEntRouteChoice

Model = TypeVar("Model", bound="MaxEntRouteChoice")

_FITTED = ("weights_", "weight_errors_", "covariance_", "farthest_")
_NUMBERS = ("log_likelihood_", "feature_gap_", "converged_", "n_iterations_", "n_gradients_")
_NETWORK = ("tail", "head", "length", "segment_length", "coordinates")
_ARRAY_PARAMETERS = ("reference", "initial_weights")


def write_model(path: str | pathlib.Path, model: "MaxEntRouteChoice") -> None:
    """
    :raises ValueError: the states' labels are not numbers, text, or tuples of them
    """
    network, arrays = model.network, {name: getattr(model, name) for name in _FITTED}
    parameters = {name: value for name, value in model.get_params().items() if name != "network"}
    arrays |= {
        name: np.asarray(parameters.pop(name), dtype=np.float64) for name in _ARRAY_PARAMETERS if parameters[name] is not None
    }
    arrays |= {f"history_{name}": values for name, values in model.history_.items()}
    arrays |= {name: getattr(network, name) for name in _NETWORK if getattr(network, name) is not None}
    if isinstance(network.features, np.ndarray):
        arrays["features"] = network.features
    else:
        arrays |= {f"features_{part}": getattr(network.features, part) for part in ("data", "indices", "indptr")}
    text = {
        "parameters": {name: value for name, value in parameters.items() if name not in _ARRAY_PARAMETERS},
        "numbers": {name: _plain(getattr(model, name)) for name in _NUMBERS},
        "n_states": network.n_states,
        "feature_names": network.feature_names,
        "labels": None if network.labels is None else [_plain(label) for label in network.labels],
    }
    arrays["json"] = np.array(json.dumps(text))

    _write(path, arrays)


def read_model(kind: type[Model], path: str | pathlib.Path) -> Model:
    """
    :raises OSError: the file cannot be opened
    :raises ValueError: it is damaged, or does not hold a model
    """
    file = _with_suffix(path)
    arrays = read_arrays(file, ("tail", "head", "length"))
    try:
        return _as_model(kind, arrays, json.loads(str(arrays["json"])))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} was not written by {kind.__name__}.save ({error!r}).") from error


def _as_model(kind: type[Model], arrays: dict[str, np.ndarray], text: dict[str, Any]) -> Model:
    names = text["feature_names"]
    features: Any = arrays.get("features")
    if features is None:
        parts = tuple(arrays[f"features_{part}"] for part in ("data", "indices", "indptr"))
        features = csr_array(parts, shape=(len(arrays["tail"]), len(names)))
    labels = None if text["labels"] is None else [_hashable(label) for label in text["labels"]]
    given = {name: arrays[name] for name in _NETWORK if name in arrays}
    network = RoadNetwork(features=features, n_states=text["n_states"], feature_names=names, labels=labels, **given)
    parameters = {**text["parameters"], **{name: arrays[name] for name in _ARRAY_PARAMETERS if name in arrays}}
    model = kind.from_weights(network, arrays["weights_"], **parameters)
    for name in _FITTED:
        getattr(model, name)[...] = arrays[name]  # in place: the distances are also what the model's graphs look at
    for name in _NUMBERS:
        setattr(model, name, text["numbers"][name])
    model.history_ = {name: arrays[f"history_{name}"] for name in ("log_likelihood", "feature_gap")}
    return model


def _plain(value: Any) -> Any:
    """A label or number as JSON has it; tuples become lists."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ValueError(
        f"a label of type {type(value).__name__} cannot be saved ({value!r}): make it a number, text or a tuple of them"
    )


def _hashable(value: Any) -> Hashable:
    return tuple(_hashable(part) for part in value) if isinstance(value, list) else value


class Checkpoint:
    """The best weights of a fit in a file, and those that are there from an earlier run.

    :param path: npz
    :param settings: what else says that it is the same fit
    :raises ValueError: the file is of another fit, or damaged
    """

    def __init__(self, path: str | pathlib.Path, network: RoadNetwork, trips: Trips, settings: Sequence[Any]) -> None:
        self.path = _with_suffix(path)
        crc, features = zlib.crc32(repr(settings).encode()), network.features
        values = features if isinstance(features, np.ndarray) else features.data
        for array in (network.tail, network.head, values, trips.edges, trips.starts, trips.weights):
            crc = zlib.crc32(array.tobytes(), crc)
        self._fit = np.array([crc, network.n_features], dtype=np.int64)
        self.weights: Array | None = None
        if self.path.exists():
            arrays = read_arrays(self.path, ["weights"])
            if not np.array_equal(arrays.get("fit", ()), self._fit):
                raise ValueError(f"{self.path} is of a fit of other paths or parameters: remove it, or choose another name")
            self.weights = arrays["weights"]

    def write(self, weights: Array) -> None:
        """Replace the file's weights (K,)."""
        _write(self.path, {"weights": weights, "fit": self._fit})


def _with_suffix(path: str | pathlib.Path) -> pathlib.Path:
    file = pathlib.Path(path)
    return file if file.suffix else file.with_suffix(".npz")


def _write(path: str | pathlib.Path, arrays: dict[str, Any]) -> None:
    def save(target: pathlib.Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            np.savez_compressed(file, **arrays)

    write_whole(path, "npz", save)
