"""Long fits: what is shown of them, and a file from which they go on."""

import pathlib
import zlib
from types import TracebackType
from typing import Any

import numpy as np
from tqdm import tqdm

from sb3_mirl.common.files import read_arrays, write_whole
from sb3_mirl.irl.network import Array, RoadNetwork
from sb3_mirl.irl.trips import Trips


class Checkpoint:
    """The best weights of a fit in a file, and those that are there from an earlier run.

    :param path: npz
    :param settings: what else says that it is the same fit
    :raises ValueError: the file is of another fit, or damaged
    """

    def __init__(self, path: str | pathlib.Path, network: RoadNetwork, trips: Trips, settings: dict[str, Any]) -> None:
        self.path = pathlib.Path(path)
        if not self.path.suffix:
            self.path = self.path.with_suffix(".npz")
        crc = zlib.crc32(repr(settings).encode())
        for array in (network.tail, network.head, trips.edges, trips.starts, trips.weights):
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

        def save(target: pathlib.Path) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                np.savez(file, weights=weights, fit=self._fit)

        write_whole(self.path, "npz", save)


class Progress:
    """Told of each iteration; shows it, and writes the checkpoint.

    :param total: sum of the paths' weights
    :param scales: (K,) by which the optimizer's weights are to be divided
    """

    def __init__(self, verbose: int, total: float, scales: Array, checkpoint: Checkpoint | None) -> None:
        self._bar = tqdm(desc="fit", unit=" iterations", disable=not verbose)
        self._total, self._scales, self._checkpoint = total, scales, checkpoint

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def __call__(self, x: Array, value: float, gap: float) -> None:
        self._bar.set_postfix_str(f"log likelihood per path {-value:.6f}, gap {gap:.1e}", refresh=False)
        self._bar.update()
        if self._checkpoint is not None:
            self._checkpoint.write(x / self._scales)
