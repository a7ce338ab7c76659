"""
Every number of the results pages that the raw scores in examples/figures give: means, intervals and corrected tests.

    python examples/report_results.py                         # all of them
    python examples/report_results.py minatar many_actions    # some
    python examples/report_results.py --figures examples/figures
    python examples/report_results.py plan --scores results/minatar_1e6/snapshots.csv

Intervals are 95 % bootstraps of the seeds, stratified by game and agent, within the range of the scores. Where agents
are tested against each other, by Welch's test, Holm's correction is for all tests of the section, and their number is said.
"SoftDQN, β=∞" is this package's DQN. The section "plan" decides what docs/results/minatar_plan.md laid down before the runs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import _figures
import pandas as pd
from compare_agents import differences, improvements, means
from matplotlib.figure import Figure
from reproduce_many_actions import draw as draw_many_actions
from reproduce_many_actions import gains as many_actions_gains
from reproduce_many_actions import means as many_actions_means
from reproduce_pg_soft_q import PARTS as ON_POLICY
from reproduce_pg_soft_q import tables as on_policy_tables

from sb3_mirl.experiments.results import last_scores, markdown
from sb3_mirl.experiments.statistics import REPS, probability_of_improvement
from sb3_mirl.plots import LABELS

FIGURES = Path(__file__).parent / "figures"
AGENTS = ("dqn", "sql", "sql_m", "mirl")
LABELS_OF_MEASURES = {"training": "training", "none": "greedy"}
PRIMARY, OTHERS = ("mirl", "sql"), (("mirl", "dqn"), ("sql", "dqn"))
SHOWN, REFUTED = 0.5, 0.6  # of the plan
PRIMARY_LEVEL = 1 - 0.05 / 2  # two measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=[], metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--scores", type=Path, help="snapshots.csv in place of the committed one; of one section")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="write the pictures of the sections into it")
    parser.add_argument("--reps", type=int, default=REPS, help=f"resamples of each bootstrap (default: {REPS})")
    args = parser.parse_args()
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        raise SystemExit(f"There is no section {unknown[0]!r}, choose from {', '.join(SECTIONS)}.")
    for name in args.sections or SECTIONS:
        section, file = SECTIONS[name]
        path = args.scores or FIGURES / file
        if path.exists():
            table = pd.read_csv(path)
            print(f"## {name}: {path.name}\n\n{section(table, args.reps)}")
            if args.figures is not None and name in PICTURES:
                figure = PICTURES[name](table)
                args.figures.mkdir(parents=True, exist_ok=True)
                figure.savefig(args.figures / f"{path.stem}_seeds.png", dpi=90)
        elif args.sections:
            raise SystemExit(f"There is no {path}: run the experiment first.")


def minatar(snapshots: pd.DataFrame, reps: int) -> str:
    """MinAtar at 2e5 steps, seeds 0 to 4."""
    return comparison(chosen(snapshots, AGENTS, range(5)), AGENTS, reps)


def parity(snapshots: pd.DataFrame, reps: int) -> str:
    """SB3's DQN beside SoftDQN at beta = inf, all seeds of both; its last snapshot is that of the game's shortest run."""
    both = snapshots.groupby("game")["agent"].transform(lambda agents: agents.nunique()) > 1
    return comparison(chosen(snapshots[both], ("dqn", "sb3_dqn")), ("dqn", "sb3_dqn"), reps)


def rare_action(snapshots: pd.DataFrame, reps: int) -> str:
    """Section 7's weakness and its remedy."""
    agents = ("dqn", "mirl", "mirl_mix")
    return comparison(chosen(snapshots, agents), agents, reps)


def many_actions(runs: pd.DataFrame, reps: int) -> str:
    """Returns against the number of actions."""
    groups = runs.groupby(["task", "extra"])
    return "\n".join(many_actions_means(*key, group) + "\n" + many_actions_gains(group) for key, group in groups)


def on_policy(runs: pd.DataFrame, reps: int) -> str:
    """Policy gradients, soft Q-learning and PQN."""
    parts = runs.groupby("part", sort=False)
    return "\n".join(on_policy_tables(of_part, ON_POLICY[part], reps) for part, of_part in parts)


def plan(snapshots: pd.DataFrame, reps: int) -> str:
    """The primary comparison of the plan, what it decides, and the secondary ones."""
    rows = {}
    for measure, scores in plan_scores(snapshots).items():
        agents = {agent: table for agent in AGENTS if len(table := complete(scores, agent))}
        pairs = [(x, y) for x, y in (PRIMARY, *OTHERS) if x in agents and y in agents]
        for pair, level in [(pair, 0.95) for pair in pairs] + [(pair, PRIMARY_LEVEL) for pair in pairs if pair == PRIMARY]:
            (estimate,) = probability_of_improvement(
                {name: agents[name].to_numpy() for name in pair}, [pair], reps, level
            ).values()
            low, high = estimate.low.item(), estimate.high.item()
            decided = "shown" if low > SHOWN else "refuted" if high < REFUTED else "open"
            rows[f"{LABELS[pair[0]]} > {LABELS[pair[1]]}, {measure}, {100 * level:g} %"] = {
                "probability": f"{estimate:.2f}",
                "games": agents[pair[0]].shape[1],
                "seeds": " and ".join(str(len(agents[name])) for name in pair),
                "plan": decided if level == PRIMARY_LEVEL else "",
            }
    scores = pd.concat([table.assign(game=table["game"] + f", {name}") for name, table in plan_scores(snapshots).items()])
    secondary = means(scores, list(AGENTS), reps) + differences(scores, list(AGENTS), reps)
    return f"{markdown(pd.DataFrame(rows).T.rename_axis('comparison'))}\n{secondary}"


def plan_scores(snapshots: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the plan's two measures of each run that has reached the last snapshot: game, agent, seed, score."""
    greedy = snapshots[snapshots["exploration"] == "none"]
    runs = greedy.groupby(["game", "agent", "seed"])
    finished = greedy[runs["timesteps"].transform("max") == greedy["timesteps"].max()].sort_values("timesteps")
    runs = finished.groupby(["game", "agent", "seed"])
    return {
        "training": runs["training_score"].mean().rename("score").reset_index(),
        "greedy": runs["score"].last().reset_index(),
    }


def complete(scores: pd.DataFrame, agent: str) -> pd.DataFrame:
    """(seeds, games) of an agent: the seeds that have played all games."""
    games = sorted(scores["game"].unique())
    wide = scores[scores["agent"] == agent].pivot(index="seed", columns="game", values="score")
    return wide.reindex(columns=games).dropna()


def chosen(snapshots: pd.DataFrame, agents: tuple[str, ...], seeds: range | None = None) -> pd.DataFrame:
    """Return the last scores of some agents: game (with the measure), agent, seed, score."""
    table = last_scores(snapshots)
    table = table[table["measure"].isin(LABELS_OF_MEASURES) & table["agent"].isin(agents)].dropna(subset="score")
    if seeds is not None:
        table = table[table["seed"].isin(seeds)]
    return table.assign(game=table["game"] + ", " + table["measure"].map(LABELS_OF_MEASURES))


def comparison(scores: pd.DataFrame, agents: tuple[str, ...], reps: int) -> str:
    """Return means, differences with corrected tests, and probabilities of improvement per measure, in Markdown."""
    text = means(scores, list(agents), reps) + "\n" + differences(scores, list(agents), reps)
    for measure, of_measure in scores.groupby("measure", sort=False):
        text += f"\n{LABELS_OF_MEASURES[measure]}: probability that a run is better, over the games\n\n"
        text += improvements(of_measure, list(agents), reps)
    return text


def seeds_of_minatar(snapshots: pd.DataFrame) -> Figure:
    """Draw every run that :func:`minatar` counts."""
    runs = snapshots[snapshots["agent"].isin(AGENTS) & (snapshots["seed"] < 5)]
    return _figures.seeds(_figures.Results(runs, None, None, sorted(runs["game"].unique()), "none", lambda _, x: x, "", 1.0))


PICTURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "minatar": seeds_of_minatar,
    "many_actions": draw_many_actions,
}
SECTIONS: dict[str, tuple[Callable[[pd.DataFrame, int], str], str]] = {
    "minatar": (minatar, "minatar.csv"),
    "parity": (parity, "parity.csv"),
    "rare_action": (rare_action, "rare_action.csv"),
    "many_actions": (many_actions, "many_actions.csv"),
    "on_policy": (on_policy, "on_policy.csv"),
    "plan": (plan, "minatar_1e6.csv"),
}


if __name__ == "__main__":
    main()
