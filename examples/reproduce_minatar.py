"""
Does the prior help? DQN, SQL, SQL_m and MIRL on MinAtar's five games, by the protocol of the paper's Atari experiment.

    python examples/reproduce_minatar.py --seeds 5 --timesteps 1e6 --jobs 2 --out results/minatar

Needs `pip install minatar`. Hours: a run takes about 15 minutes on one core. Finished runs are kept and a killed one goes
on from its last snapshot, so the same command continues; more seeds can be added later. Section 7's weakness, an action
that is useful but rare and mostly punished, and its remedy:

    python examples/reproduce_minatar.py --games rare_action --algos dqn sql mirl mirl_mix --seeds 10 \\
        --timesteps 4e4 --snapshot-every 2e3 --out results/rare_action
"""

import sys

from sb3_mirl.experiments import Suite, minatar
from sb3_mirl.experiments.command_line import experiment_parser, run

SUITE = Suite("minatar", minatar.make_env, minatar.hyperparameters)


def main() -> None:
    parser = experiment_parser(
        __doc__, minatar.GAMES, ("dqn", "sql", "sql_m", "mirl"), 1_000_000, 100_000, ["default"], "results/minatar"
    )
    args = parser.parse_args()
    failed = [] if args.plots_only else run(args, SUITE)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
