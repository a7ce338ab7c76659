"""How fast the tabular part is: the exact solver as the state space grows, and the compiled agents.

    OMP_NUM_THREADS=1 python examples/benchmark_tabular.py

The solver's problem is an open world of square blocks with a goal in each, slippery, 4 actions, gamma 0.99, beta 1; it is
solved to a KKT gap of 1e-6 ("discounted"). The dense loop is the textbook's: value iteration and Blahut-Arimoto on an
(S, A, S) array, to the same tolerance.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from scipy.sparse import csr_array
from scipy.special import logsumexp

from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMDP, TabularMIRL, solve_mutual_information

BETA, GAMMA, GAP, SLIP, BLOCK = 1.0, 0.99, 1e-6, 0.1, 8
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


def open_world(n_states: int) -> TabularMDP:
    """A square of about ``n_states`` cells; a move slips to its right with probability ``SLIP``."""
    side = round(n_states**0.5)
    row, column = np.divmod(np.arange(side * side), side)
    goal = (row % BLOCK == BLOCK // 2) & (column % BLOCK == 1)
    after = [np.clip(row + r, 0, side - 1) * side + np.clip(column + c, 0, side - 1) for r, c in MOVES]
    targets = np.stack([np.stack([after[a], after[(a + 1) % 4]], axis=-1) for a in range(4)], axis=1)  # (S, A, 2)
    weights = np.broadcast_to([1 - SLIP, SLIP], targets.shape)
    reward = (weights * np.where(goal[targets], 9.0, -1.0)).sum(axis=-1)
    going_on = np.where(goal[targets] | goal[:, None, None], 0.0, weights)
    entries = (going_on.ravel(), (np.repeat(np.arange(side * side * 4), 2), targets.ravel()))
    reward[goal] = 0.0
    return TabularMDP(csr_array(entries, shape=(side * side * 4, side * side)), reward, ~goal / (~goal).sum(), GAMMA)


def solve(n_states: int) -> tuple[int, float, float, np.ndarray]:
    """States, seconds, the process's peak memory in MB (imports and problem included), and the prior."""
    solve_mutual_information(open_world(100), BETA, tolerance=GAP)  # imports
    mdp = open_world(n_states)
    start = time.process_time()
    solution = solve_mutual_information(mdp, BETA, tolerance=GAP)
    seconds = time.process_time() - start
    assert solution.converged
    return mdp.n_states, seconds, peak_memory(), solution.prior


def peak_memory() -> float:
    """The process's, in MB; NaN where the system does not tell."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def dense_loop(n_states: int) -> tuple[int, float, float, np.ndarray]:
    """The same by the textbook's loop on a dense array."""
    mdp = open_world(n_states)
    start = time.process_time()
    transition, prior, v = np.ascontiguousarray(mdp.transition), np.full(4, 0.25), np.zeros(mdp.n_states)
    gap = np.inf
    while gap > GAP:
        change = np.inf
        while change > 1e-9:
            q = mdp.reward + GAMMA * (transition @ v)
            new = logsumexp(BETA * q, b=prior, axis=1) / BETA
            change, v = np.abs(new - v).max(), new
        policy = prior * np.exp(BETA * (q - v[:, None]))
        chain = np.einsum("sa,sat->st", policy, transition)
        visits = mass = mdp.initial
        while mass.sum() > 1e-12:
            mass = GAMMA * (mass @ chain)
            visits = visits + mass
        fitness = (visits / visits.sum()) @ np.exp(BETA * (q - v[:, None]))
        gap = np.abs(prior * (fitness - 1)).max() + max(fitness.max() - 1, 0)
        prior = prior * fitness / (prior @ fitness)
    return mdp.n_states, time.process_time() - start, transition.nbytes / 2**20, prior


def in_a_fresh_process(function, n_states: int) -> tuple[int, float, float, np.ndarray]:  # type: ignore[no-untyped-def]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, n_states).result()


def solver_table(sizes: list[int], dense_limit: int) -> None:
    columns = ("states", "solver, s (CPU)", "peak memory, MB", "dense loop, s (CPU)", "dense array, MB", "ratio")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for size in sizes:
        states, seconds, megabytes, prior = in_a_fresh_process(solve, size)
        if size <= dense_limit:
            _, dense_seconds, dense_megabytes, dense_prior = in_a_fresh_process(dense_loop, size)
            assert np.allclose(prior, dense_prior, atol=1e-4), (prior, dense_prior)
            dense = f"{dense_seconds:.2f} | {dense_megabytes:.0f} | {dense_seconds / seconds:.0f}"
        else:
            dense = f"- | {32 * states**2 / 2**20:.0f} | -"
        print(f"| {states} | {seconds:.2f} | {megabytes:.0f} | {dense} |", flush=True)


def agent_table(timesteps: int) -> None:
    agents = {"QL": QLearning, "SQL": SoftQLearning, "MIRL": TabularMIRL}
    print("\n| agent | world | steps / s (CPU, one core) |\n|---|---|---|")
    for name, agent_class in agents.items():
        for world in ("MirlCorridor-v0", "MirlSquare-v0"):
            agent_class(world, seed=0).learn(1000)  # compiles, or loads what was compiled before
            best = 0.0
            for seed in range(3):
                agent = agent_class(world, seed=seed)
                start = time.process_time()
                agent.learn(timesteps)
                best = max(best, timesteps / (time.process_time() - start))
            print(f"| {name} | {world} | {best:.2e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--dense-limit", type=int, default=1000, help="largest size for the dense loop (32 S² bytes)")
    parser.add_argument("--timesteps", type=int, default=2_500_000)
    options = parser.parse_args()
    solver_table(options.states, options.dense_limit)
    agent_table(options.timesteps)


if __name__ == "__main__":
    main()
