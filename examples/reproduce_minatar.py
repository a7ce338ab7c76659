"""
Does the prior help? DQN, SQL, SQL_m and MIRL on MinAtar's five games, by the protocol of the paper's Atari experiment.

    python examples/reproduce_minatar.py --seeds 5 --timesteps 1e6 --jobs 2 --out results/minatar

Needs `pip install minatar`. 1e6 steps take a quarter of an hour on an idle core. Finished runs are kept and a killed one
goes on from its last snapshot: the same command continues, and more seeds can be added later. What exploring by the prior
brings in evaluation alone shows with `--eval-exploration prior uniform none`. 
`tensorboard --logdir results/minatar` shows the runs under way.

Section 7's weakness, an action that is useful but rare and mostly punished, and its remedy, `exploration_mix`:

    python examples/reproduce_minatar.py --games rare_action --algos dqn mirl mirl_mix --seeds 5 \\
        --timesteps 2e4 --snapshot-every 1e3 --eval-exploration none --out results/rare_action

Writes to --out: raw CSVs, table.md, and the counterparts of the paper's Figures 2 to 8 as PNGs. Scores are normalised per
game: 0 = random actions, 100 = the best agent's mean at the last snapshot.
"""

import sys
from pathlib import Path

import _figures
import numpy as np
import pandas as pd
from _command_line import experiment_parser, run
from numpy.typing import NDArray

from sb3_mirl.evaluation import evaluate
from sb3_mirl.experiments import MINATAR
from sb3_mirl.experiments.agents import make_agent
from sb3_mirl.experiments.results import Normalise, last_scores
from sb3_mirl.experiments.snapshots import write_csv

RANDOM = "random.csv"


def main() -> None:
    args = experiment_parser(__doc__, MINATAR, 1_000_000, 100_000).parse_args()
    failed = run(args, MINATAR)
    play_at_random(args.out, args.eval_episodes)
    exploration = args.eval_exploration[0]
    normalise = relative_to_best(args.out, exploration)
    results = _figures.read(args.out, exploration, normalise, "0 = random play, 100 = best agent")
    last = _figures.final(results)
    table = _figures.final_scores(results.snapshots) + _figures.summary(results, last)
    (args.out / "table.md").write_text(table)
    print(table)
    for path in _figures.draw_all(results, last, args.out):
        print(path)
    sys.exit(bool(failed))


def play_at_random(out: Path, n_episodes: int) -> None:
    """Add the score of uniformly random actions to random.csv, for every game in the experiment that has none yet."""
    known = pd.read_csv(out / RANDOM) if (out / RANDOM).exists() else pd.DataFrame({"game": [], "score": []})
    for game in sorted(set(pd.read_csv(out / "snapshots.csv")["game"]) - set(known["game"])):
        env = MINATAR.make_env(game, n_episodes, 0, False)
        model = make_agent("dqn", env, "MlpPolicy", {"buffer_size": 1}, device="cpu")
        returns, _ = evaluate(model, env, n_episodes, epsilon=1.0, exploration="uniform", seed=0)
        known.loc[len(known)] = [game, returns.mean()]
    write_csv(known, out / RANDOM)


def relative_to_best(out: Path, exploration: str) -> Normalise:
    """Return the scale on which random actions score 0, and the best agent's mean at the last snapshot is 100."""
    snapshots, random = pd.read_csv(out / "snapshots.csv"), pd.read_csv(out / RANDOM).set_index("game")["score"]
    last = last_scores(snapshots).query("measure == @exploration")
    best = last.groupby(["game", "agent"])["score"].mean().groupby("game").max()

    def normalise(game: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return 100 * (scores - random[game]) / (best[game] - random[game])

    return normalise


if __name__ == "__main__":
    main()
