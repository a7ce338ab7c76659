"""Table 1 and Figures 3 to 5 of Ziebart et al. (2008) on a synthetic city: two minutes on two cores.

    python examples/reproduce_routes.py                            # 2 500 road segments, 1 000 trips to learn from
    python examples/reproduce_routes.py --scale 1 --out results/routes_full   # the paper's size: hours; run again to go on

The trips are sampled from the maximum entropy model with known weights, as the paper's are not public. That its own model
describes them best is no evidence about drivers; what is shown is that the weights come back, and what the others miss.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from _city import BASE, BLOCK, LANES, SECONDS, SPEEDS, TYPES, City, make_city
from tqdm import tqdm

from sb3_mirl.irl import (
    ActionBased,
    MaxEntRouteChoice,
    MaxMargin,
    RouteScores,
    ShortestPath,
    destination_accuracy,
    evaluate_routes,
    plots,
)
from sb3_mirl.irl.graphs import TURNS

SEGMENTS, TRAIN, TEST, DESTINATIONS = 317_000, 1_850, 7_403, 400  # at scale 1; the paper does not tell the last one
SMALL = {"segments": 2_500, "train": 1_000, "test": 1_000, "destinations": 50}  # at the default scale
PRIOR = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
TRACKED = 600  # trips of Figure 5
SHARES = np.linspace(0, 1, 11)
INTERSTATE = "interstate", 55.4  # seconds for a mile at 65 miles per hour
PAPER = {
    "Time-based": (72.38, 43.12, np.nan),
    "Max margin": (75.29, 46.56, np.nan),
    "Action": (77.30, 50.37, -7.91),
    "Action (costs)": (77.74, 50.75, np.nan),
    "MaxEnt paths": (78.79, 52.98, -6.85),
}

Paths = list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=SMALL["segments"] / SEGMENTS, help="1 is the paper's size")
    parser.add_argument("--trips", type=int, help="trips to learn from, to test, and to track to five destinations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/routes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    city = make_city(round(options.scale * SEGMENTS), options.seed)
    print(city.network)
    drivers = MaxEntRouteChoice.from_weights(city.network, city.weights)
    train, test = draw_trips(city, drivers, options)
    length = np.mean([len(path) for path in train])
    print(f"{len(train)} trips to learn from, {len(test)} to test, {length:.1f} segments on average")

    model = MaxEntRouteChoice(city.network, max_detour=1.0 if options.scale > 0.1 else None, verbose=1)
    model.fit(train, checkpoint=options.out / "fit.npz")
    model.save(options.out / "model.npz")
    table = table_1(scores(city, model, drivers, train, test, options.out / "scores.json"))
    print(f"\n{table}\n\n{model.summary(*INTERSTATE)}")
    figure_3(model, options.out / "figure_3.png")
    trips, destinations = trips_to_five(city, drivers, options.trips or TRACKED, options.seed)
    accuracy, log_probability = destination_accuracy(model, trips, destinations, PRIOR, SHARES)
    lines = [
        f"{100 * share:3.0f} % seen: {p:.3f} right, log posterior {logs:.2f}"
        for share, p, logs in zip(SHARES, accuracy, log_probability, strict=True)
    ]
    print("\n" + "\n".join(lines))
    figures_4_and_5(model, trips, destinations, accuracy, options.out / "figure_4_and_5.png")
    (options.out / "summary.md").write_text(f"{table}\n\n```\n{model.summary(*INTERSTATE)}\n```\n\n" + "\n".join(lines) + "\n")
    print(f"\n{time.perf_counter() - start:.0f} s: see {options.out}/")


def draw_trips(city: City, drivers: MaxEntRouteChoice, options: argparse.Namespace) -> tuple[Paths, Paths]:
    """Trips from drawn origins to drawn destinations, the same in training and test."""
    generator = np.random.default_rng(options.seed)
    grown = options.scale > 0.1
    numbers = {"train": TRAIN, "test": TEST, "destinations": DESTINATIONS} if grown else SMALL
    n_train, n_test = (options.trips or numbers[name] for name in ("train", "test"))
    destinations = generator.choice(city.network.n_states, numbers["destinations"], replace=False)
    ends = np.sort(generator.choice(destinations, n_train + n_test))  # a destination's trips one after the other
    paths: Paths = []
    for end in tqdm(ends.tolist(), desc="trips", disable=not grown):
        paths += drivers.sample(origin_of(city, end, generator), end, 1, int(generator.integers(2**31)))
    order = generator.permutation(len(paths))
    return [paths[i] for i in order[:n_train]], [paths[i] for i in order[n_train:]]


def origin_of(city: City, destination: int, generator: np.random.Generator) -> int:
    """A segment other than the destination, in a large city from 1 to 6 miles away."""
    xy = city.network.coordinates.mean(axis=1)
    miles = BLOCK * np.linalg.norm(xy - xy[destination], axis=1)
    near = (miles < 6) & (miles > (1 if len(xy) > 0.1 * SEGMENTS else 0))
    near[destination] = False
    return int(generator.choice(np.flatnonzero(near)))


def scores(
    city: City, model: MaxEntRouteChoice, drivers: MaxEntRouteChoice, train: Paths, test: Paths, file: Path
) -> dict[str, RouteScores]:
    """Each model's scores on the test trips; those in ``file`` are not computed again."""
    fits: dict[str, Callable[[], RouteScores]] = {
        "Time-based": lambda: evaluate_routes(ShortestPath(city.network, city.seconds).fit(train), test),
        "Max margin": lambda: evaluate_routes(MaxMargin(city.network, verbose=1).fit(train), test),
        "Action": lambda: evaluate_routes(action(), test),
        "Action (costs)": lambda: evaluate_routes(action(), test, path="cheapest"),
        "MaxEnt paths": lambda: evaluate_routes(model, test),
        "true weights": lambda: evaluate_routes(drivers, test),
    }
    fitted: list[ActionBased] = []

    def action() -> ActionBased:
        if not fitted:
            fitted.append(ActionBased(city.network, verbose=1).fit(train))
        return fitted[0]

    sizes = [city.network.n_states, len(train), len(test)]
    known = json.loads(file.read_text()) if file.exists() else {}
    found = known["scores"] if known.get("sizes") == sizes else {}
    for name, fit in fits.items():
        if name not in found:
            start = time.perf_counter()
            found[name] = fit()
            print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
            file.write_text(json.dumps({"sizes": sizes, "scores": found}))
    return {name: RouteScores(*found[name]) for name in fits}


def table_1(found: dict[str, RouteScores]) -> str:
    """Our numbers beside the paper's, in Markdown."""
    lines = ["| | matching, % | paper | 90 % match, % | paper | log prob | paper |", "|---|---|---|---|---|---|---|"]
    for name, ours in found.items():
        theirs = PAPER.get(name, (np.nan,) * 3)
        pairs = zip((100 * ours.matching, 100 * ours.match90, ours.log_probability), theirs, strict=True)
        cells = [f"{value:.2f}" if np.isfinite(value) else "" for pair in pairs for value in pair]
        if name == "Action (costs)":
            cells[4] = ""  # the probabilities are those of "Action"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_3(model: MaxEntRouteChoice, file: Path) -> None:
    """The costs in seconds, with 95 % intervals, and the true ones as ticks."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    groups = (TURNS, TYPES, [name for name in (*SPEEDS, *LANES) if name not in BASE])
    for ax, names, title in zip(axes, groups, ("turns", "a mile, by type", "a mile, on top: speed and lanes"), strict=True):
        plots.weights(ax, model, names, *INTERSTATE)
        truth = [SECONDS[name] * INTERSTATE[1] / SECONDS["interstate"] for name in names]
        ax.plot(truth, range(len(names)), "|", color="black", markersize=12, zorder=4)
        ax.set_title(title, loc="left")
        ax.set_xlabel("seconds")
    figure.suptitle("Learned costs, 95 % intervals, and the true ones (ticks); a mile of interstate is 55.4 s")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def trips_to_five(city: City, drivers: MaxEntRouteChoice, n_trips: int, seed: int) -> tuple[Paths, list[int]]:
    """Trips from the inner city to five destinations around it, chosen by ``PRIOR``."""
    generator, xy = np.random.default_rng(seed + 1), city.network.coordinates.mean(axis=1)
    middle, size = xy.mean(axis=0), np.ptp(xy, axis=0).min()
    radius = min(0.45 * size, 40.0)  # blocks
    corners = middle + radius * np.stack([(f(2 * np.pi * (np.arange(5) / 5 + 0.05))) for f in (np.cos, np.sin)], axis=1)
    destinations = [int(np.linalg.norm(xy - corner, axis=1).argmin()) for corner in corners]
    inner = np.flatnonzero(np.abs(xy - middle).max(axis=1) < 2 / 3 * radius)
    paths = []
    for number in np.sort(generator.choice(5, n_trips, p=PRIOR)):
        origin = int(generator.choice(inner[~np.isin(inner, destinations)]))
        paths += drivers.sample(origin, destinations[number], 1, int(generator.integers(2**31)))
    return paths, destinations


def figures_4_and_5(model: MaxEntRouteChoice, trips: Paths, destinations: list[int], accuracy: np.ndarray, file: Path) -> None:
    """A trip of which a third was seen, with what may follow; and how often the destination is right."""
    partial = undecided(model, trips, destinations)
    flows = model.remaining_flows(partial, destinations, PRIOR)
    posterior = model.destination_probabilities(partial, destinations, PRIOR)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", width_ratios=[1.25, 1])
    plots.route_map(left, model.network, flows, partial, destinations, posterior)
    around = model.network.coordinates[[*destinations, *partial]].reshape(-1, 2)
    left.set_xlim(around[:, 0].min() - 4, around[:, 0].max() + 4)
    left.set_ylim(around[:, 1].min() - 4, around[:, 1].max() + 4)
    left.set_title("Seen so far (blue), where to (discs), which way (widths)", loc="left")
    plots.destination_accuracy(right, SHARES, accuracy, len(trips))
    right.axhline(100 * PRIOR.max(), color="0.5", linewidth=0.8, linestyle=":")
    right.annotate("the most frequent one", (100, 100 * PRIOR.max()), ha="right", va="bottom", fontsize=8, color="0.4")
    right.set_title(f"Which of five destinations, {len(trips)} trips", loc="left")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def undecided(model: MaxEntRouteChoice, trips: Paths, destinations: list[int]) -> np.ndarray:
    """The first third of a long trip after which two or three destinations remain."""
    longest = sorted(trips, key=len)[-len(trips) // 4 :]
    partials = [path[: 1 + len(path) // 3] for path in longest]
    entropy = []
    for partial in partials:
        p = model.destination_probabilities(partial, destinations, PRIOR)
        entropy.append(-np.sum(p * np.log(np.maximum(p, 1e-300))))
    return partials[int(np.argmin(np.abs(np.array(entropy) - 0.9)))]


if __name__ == "__main__":
    main()
