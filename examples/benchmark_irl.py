"""What a gradient of the route model costs as the network grows, against one Dijkstra on the same graph.

    OMP_NUM_THREADS=1 python examples/benchmark_irl.py          # the sizes up to the paper's 317 000 segments, some minutes
    OMP_NUM_THREADS=1 python examples/benchmark_irl.py --lu     # and one sparse factorisation for all destinations

One destination, 50 origins; CPU seconds of this process, the median over rounds in which all is measured in turns. "first"
builds the destination's structure, "again" has it from the gradient before, as all gradients of a fit but the first. "In
town" is the cost of each of ten destinations with max_detour=0.5 and origins within 4.5 miles, which a tenth of the largest
network is enough for. Only ratios mean something elsewhere.
"""

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from _city import BLOCK, City, make_city
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import splu

from sb3_mirl.irl import ShortestPath
from sb3_mirl.irl.destination_graphs import Graphs
from sb3_mirl.irl.objective import RouteLikelihood
from sb3_mirl.irl.trips import read_trips

SIZES = (10_000, 31_000, 104_000, 317_000)
ORIGINS, TOWN_DESTINATIONS, MILES, ROUNDS = 50, 10, 4.5, 5

Paths = list[np.ndarray]


class Cost(NamedTuple):
    """CPU seconds, and the peak memory in MB before anything is factorised."""

    states: int
    edges: int
    dijkstra: float
    first: float
    again: float
    information: float
    town_first: float
    town_again: float
    memory: float
    factorise: float = np.nan
    solve: float = np.nan
    underflown: float = np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="road segments")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--lu", action="store_true", help="factorise too (1 GB and half a minute at the largest size)")
    options = parser.parse_args()
    print(
        "| states | edges | Dijkstra | first | again | ratios | Hessian | in town | ratios | MB | LU: factor, solve, z = 0 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    costs = []
    for size in options.sizes:
        # each in a process of its own, for the sake of its peak memory
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            costs.append(pool.submit(measure, size, options.rounds, options.lu).result())
        print(row(costs[-1]), flush=True)
    if len(costs) > 1:
        small, large = costs[1] if len(costs) > 2 else costs[0], costs[-1]
        print(f"exponents in edges, from {small.edges} to {large.edges}:", end=" ")
        exponents = [np.log(getattr(large, name) / getattr(small, name)) for name in ("first", "again", "dijkstra")]
        exponents /= np.log(large.edges / small.edges)
        print("first {:.2f}, again {:.2f}, Dijkstra {:.2f}".format(*exponents))


def row(cost: Cost) -> str:
    """A line of the table."""
    d = cost.dijkstra
    lu = "" if np.isnan(cost.factorise) else f"{cost.factorise:.2f}, {cost.solve:.3f}, {100 * cost.underflown:.0f} %"
    times = f"{d:.4f} | {cost.first:.3f} | {cost.again:.3f} | {cost.first / d:.1f}, {cost.again / d:.1f}"
    town = f"{cost.town_first:.4f}, {cost.town_again:.4f} | {cost.town_first / d:.1f}, {cost.town_again / d:.1f}"
    return f"| {cost.states} | {cost.edges} | {times} | {cost.information / d:.0f} | {town} | {cost.memory:.0f} | {lu} |"


def measure(size: int, rounds: int, lu: bool) -> Cost:
    """All of the costs at one size."""
    costs_of(make_city(600), 1)  # compiles
    city = make_city(size)
    times = costs_of(city, rounds)
    cost = Cost(city.network.n_states, city.network.n_edges, *times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return cost._replace(**factorised(city)) if lu else cost


def costs_of(city: City, rounds: int) -> list[float]:
    """The seconds of ``Cost``, from ``dijkstra`` to ``town_again``."""
    generator, xy, middle = np.random.default_rng(0), city.network.coordinates.mean(axis=1), middle_of(city)
    distance = np.linalg.norm(xy - xy[middle], axis=1) * BLOCK  # miles
    anywhere = trips_to(city, middle, generator.integers(city.network.n_states, size=ORIGINS))
    near, ends = np.flatnonzero(distance < MILES), generator.choice(np.flatnonzero(distance < 1), TOWN_DESTINATIONS)
    nearby = [path for end in ends for path in trips_to(city, int(end), generator.choice(near, ORIGINS))]
    samples = []
    for _ in range(rounds):
        whole, town = Graphs(city.network), Graphs(city.network, max_detour=0.5)
        dijkstra = seconds(lambda graphs: graphs.distances(middle), whole)
        first, again, likelihood = gradients(city, anywhere, whole)
        samples.append([dijkstra, first, again, *(np.array(gradients(city, nearby, town)[:2]) / TOWN_DESTINATIONS)])
    median = np.median(samples, axis=0).tolist()
    information = seconds(lambda which: which.information(city.weights), likelihood)
    return [*median[:3], information, *median[3:]]


def gradients(city: City, paths: Paths, graphs: Graphs) -> tuple[float, float, RouteLikelihood]:
    """The seconds of a first gradient and of the next."""
    trips = read_trips(city.network, paths)
    start = time.process_time()
    likelihood = RouteLikelihood(city.network, trips, graphs, None, n_jobs=1)
    likelihood.value_and_gradient(city.weights)
    first = time.process_time() - start
    return first, seconds(lambda which: which.value_and_gradient(city.weights), likelihood), likelihood


def middle_of(city: City) -> int:
    """The segment in the middle of the city."""
    xy = city.network.coordinates.mean(axis=1)
    return int(np.linalg.norm(xy - xy.mean(axis=0), axis=1).argmin())


def trips_to(city: City, destination: int, origins: np.ndarray) -> Paths:
    """The shortest paths from some origins."""
    planner = ShortestPath(city.network, city.network.length).fit()
    return [planner.predict(int(origin), destination) for origin in origins if origin != destination]


def seconds(call: Callable[[Any], Any], argument: Any) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call(argument)
    return time.process_time() - start


def factorised(city: City) -> dict[str, float]:
    """One sparse LU of I - W, from which z of each destination is one solve; unscaled, so that far away z is 0."""
    network, n = city.network, city.network.n_states
    weights = csr_array((np.exp(network.rewards(city.weights)), (network.tail, network.head)), shape=(n, n))
    matrix, start = csc_array(eye_array(n) - weights), time.process_time()
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    factorise, right = time.process_time() - start, np.zeros(n)
    right[middle_of(city)] = 1
    start = time.process_time()
    z = factors.solve(right)
    return {"factorise": factorise, "solve": time.process_time() - start, "underflown": float((z <= 1e-300).mean())}


if __name__ == "__main__":
    main()
