"""
Policy gradients, soft Q-learning and PQN side by side on MinAtar: Schulman, Chen & Abbeel 2017, Figures 1 to 3, and SoftPQN
against DQN.

    python examples/reproduce_pg_soft_q.py figure1 --seeds 5 --timesteps 1e6 --out results/pg_soft_q
    python examples/reproduce_pg_soft_q.py speed

The parts: `figure1` A2C with naive and proper entropy; `figure2` DQN with hard, KL and entropy targets; `figure3` policy
gradient against soft Q-learning at three temperatures; `prior` a learned prior against the uniform one, for both classes;
`pqn` SoftPQN against DQN at an equal number of steps, and `pqn_seconds` at about equal CPU time; `atari` the same in Atari's
Breakout; `speed` environment steps per CPU second of SoftPQN and of SoftDQN at beta = inf, in turns in one process. Needs
`pip install minatar`; `atari` and `speed` also the ALE.

Finished runs are kept and a killed one goes on from its last checkpoint: the same command continues. `--jobs 2` does two runs
at a time, `--ray` shares them among machines. Several commands may share one --out, and parts share runs. Writes curve.csv for
each run, and runs.csv, table.md and <part>.png for the part: return of the last 100 training episodes; priors.csv and
priors.png where priors are learned. To go on from the runs of the results page:

    mkdir -p results/pg_soft_q && tar xzf examples/runs/pg_soft_q.tar.gz -C results/pg_soft_q
"""

import argparse
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _command_line import add_machines, execute, steps
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl import ResumableCheckpoint, SoftA2C, SoftDQN, SoftPQN, resume
from sb3_mirl.common.files import claimed
from sb3_mirl.envs.minatar import GAMES, MinAtarCNN
from sb3_mirl.experiments import ReportCallback, Run, results, statistics
from sb3_mirl.experiments.games import make_minatar_env
from sb3_mirl.experiments.results import markdown
from sb3_mirl.experiments.work import Reporter

POINTS = 40
"""Of a learning curve."""
NETWORK = {"features_extractor_class": MinAtarCNN, "net_arch": []}
A2C: dict[str, Any] = {
    "n_envs": 16,  # the zoo's Atari settings, but for the rate and the bound: with these nothing was learned in 5e4 steps
    "learning_rate": 3e-3,
    "max_grad_norm": 2.0,
    "vf_coef": 0.25,
    "policy_kwargs": NETWORK,
}
PQN: dict[str, Any] = {
    "n_envs": 16,
    "n_minibatches": 4,  # of 128 steps
    "learning_rate": 5e-4,  # falling to 0, PQN's for MinAtar
    "policy_kwargs": NETWORK,
}
DQN: dict[str, Any] = {  # schedules scaled to the budget, see `make_model`
    "n_envs": 8,
    "learning_rate": 2.5e-4,
    "buffer_size": 100_000,
    "beta_schedule": "constant",
    "beta_init": math.inf,
    "exploration_fraction": 0.5,
    "exploration_final_eps": 0.05,
    "policy_kwargs": NETWORK,
}
ATARI_PQN: dict[str, Any] = {"n_envs": 16, "n_minibatches": 4, "learning_rate": 2.5e-4, "exploration_final_eps": 0.01}
ATARI_DQN: dict[str, Any] = {  # the zoo's rate and exploration
    **DQN,
    "learning_rate": 1e-4,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.01,
    "policy_kwargs": {},
}
AGENTS: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "naive": (SoftA2C, {**A2C, "entropy": "naive"}),
    "naive_bonus": (SoftA2C, {**A2C, "entropy": "naive", "entropy_bonus": True}),
    "proper_bonus": (SoftA2C, {**A2C, "entropy_bonus": True}),
    "a2c_prior": (SoftA2C, {**A2C, "ent_coef": 0.1, "prior_lr": 5e-5}),
    "a2c_prior_0.01": (SoftA2C, {**A2C, "ent_coef": 0.01, "prior_lr": 5e-5}),
    "pqn": (SoftPQN, PQN),
    "pqn_32": (SoftPQN, {**PQN, "n_minibatches": 16}),
    "pqn_uniform": (SoftPQN, {**PQN, "exploration": "boltzmann", "beta_init": 20.0}),
    "pqn_prior": (SoftPQN, {**PQN, "exploration": "boltzmann", "beta_init": 20.0, "prior_lr": 5e-5}),
    "dqn": (SoftDQN, DQN),
    "atari_pqn": (SoftPQN, ATARI_PQN),
    "atari_dqn": (SoftDQN, ATARI_DQN),
}
TAUS, STEPS = (0.01, 0.1, 0.3), (1, 5)
for tau in TAUS:
    pair = {**A2C, "ent_coef": tau}
    AGENTS[f"policy_gradient_{tau:g}"] = (SoftA2C, pair)
    AGENTS[f"soft_q_{tau:g}"] = (SoftA2C, {**pair, "update": "soft_q"})
    AGENTS[f"soft_q_theory_{tau:g}"] = (SoftA2C, {**pair, "update": "soft_q", "vf_coef": 1 / (2 * tau)})
AGENTS["hard_n5"] = (SoftDQN, {**DQN, "n_steps": 5})
for n in STEPS:
    for tau in TAUS[:2]:
        soft = {**DQN, "n_steps": n, "beta_init": 1 / tau}
        AGENTS[f"kl_{tau:g}_n{n}"] = (SoftDQN, soft)
        AGENTS[f"entropy_{tau:g}_n{n}"] = (SoftDQN, {**soft, "entropy_bonus": True})
PARTS: dict[str, dict[str, dict[str, str]]] = {
    "figure1": {
        "τ = 0.01": {"naive": "naive entropy", "policy_gradient_0.01": "proper entropy"},
        "τ = 0.01, bonus τ log A": {"naive_bonus": "naive entropy", "proper_bonus": "proper entropy"},
    },
    "figure2": {
        f"{n}-step targets": {
            "dqn" if n == 1 else f"hard_n{n}": "hard",
            **{f"kl_{tau:g}_n{n}": f"KL, τ = {tau:g}" for tau in TAUS[:2]},
            **{f"entropy_{tau:g}_n{n}": f"entropy, τ = {tau:g}" for tau in TAUS[:2]},
        }
        for n in STEPS
    },
    "figure3": {
        f"τ = {tau:g}": {
            f"policy_gradient_{tau:g}": "policy gradient",
            f"soft_q_{tau:g}": "soft Q-learning, vf_coef = 0.25",
            f"soft_q_theory_{tau:g}": "soft Q-learning, vf_coef = 1 / (2τ)",
        }
        for tau in TAUS
    },
    "prior": {
        "SoftA2C, τ = 0.1": {"policy_gradient_0.1": "uniform prior", "a2c_prior": "learned prior"},
        "SoftA2C, τ = 0.01": {"policy_gradient_0.01": "uniform prior", "a2c_prior_0.01": "learned prior"},
        "SoftPQN, β = 20": {"pqn_uniform": "uniform prior", "pqn_prior": "learned prior"},
    },
    "pqn": {"equal steps": {"dqn": "DQN", "pqn": "SoftPQN, minibatches of 128", "pqn_32": "SoftPQN, minibatches of 32"}},
    "pqn_seconds": {"equal time": {"dqn": "DQN", "pqn": "SoftPQN, minibatches of 128"}},
    "atari": {"equal time": {"atari_dqn": "DQN", "atari_pqn": "SoftPQN, minibatches of 128"}},
}
"""For each row of a figure its agents and their names in it; the first is the one with which the others are compared."""
DQN_STEPS = {"pqn_seconds": 0.17, "atari": 0.27}
"""For each part at equal time, environment steps of DQN that cost as much as one of SoftPQN (``speed``)."""


def rows_of(part: str, agents: list[str] | None) -> dict[str, dict[str, str]]:
    """The rows of a figure, or what ``agents`` leaves of them with all others in a last one."""
    if agents is None:
        return PARTS[part]
    rows = {title: {agent: row[agent] for agent in row if agent in agents} for title, row in PARTS[part].items()}
    rows["others"] = {agent: agent for agent in agents if not any(agent in row for row in rows.values())}
    return {title: row for title, row in rows.items() if row}


class Curve(BaseCallback):
    """Notes the return of the last training episodes, and CPU seconds, at regular environment steps. Resumable."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0  # of the CPU, over all processes that have worked on the run

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with; not ``begun``, which is this process's."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what :meth:`state_dict` has given."""
        self.rows, self.seconds, self.begun = list(state["rows"]), state["seconds"], time.process_time()

    def _on_training_start(self) -> None:
        self.begun = time.process_time()

    def _on_rollout_start(self) -> None:
        now = time.process_time()
        self.seconds, self.begun = self.seconds + now - self.begun, now
        episodes: Any = self.model.ep_info_buffer
        if episodes and self.num_timesteps // self.every > (self.rows[-1]["timesteps"] // self.every if self.rows else 0):
            mean = float(np.mean([episode["r"] for episode in episodes]))
            self.rows.append({"timesteps": self.num_timesteps, "seconds": self.seconds, "return": mean})

    def _on_step(self) -> bool:
        return True


def environments(game: str, n_envs: int, seed: int) -> VecEnv:
    """Copies of a game of MinAtar or, for any other name, of Atari."""
    if game in GAMES:
        return make_minatar_env(game, n_envs, seed, True)
    from sb3_mirl.envs import AtariVecEnv  # without the ALE, MinAtar can be played

    return AtariVecEnv(game, n_envs, seed, num_threads=1)


def make_model(agent: str, game: str, seed: int, timesteps: int) -> BaseAlgorithm:
    """The agent in its games."""
    cls, arguments = AGENTS[agent][0], dict(AGENTS[agent][1])
    env = environments(game, arguments.pop("n_envs"), seed)
    if cls is SoftDQN:
        arguments["learning_starts"] = max(500, timesteps // 28)
        arguments["target_update_interval"] = min(4000, max(500, timesteps // 14))
    else:
        arguments["learning_rate"] = FloatSchedule(LinearSchedule(arguments["learning_rate"], 0.0, 1.0))
    return cls("MlpPolicy" if game in GAMES else "CnnPolicy", env, seed=seed, device="cpu", **arguments)


def train(run: Run, timesteps: int, out: Path, report: Reporter) -> None:
    """Train one agent, from its last checkpoint if there is one, unless that is done."""
    folder = out / run.folder
    with claimed(folder):
        if is_done(run, out):
            return
        checkpoint = ResumableCheckpoint(folder / "checkpoint", max(timesteps // 4, 1), keep=1)
        curve = Curve(timesteps // POINTS)
        if checkpoint.exists():
            model = resume(folder / "checkpoint", environments(run.game, AGENTS[run.agent][1]["n_envs"], run.seed), "cpu")
        else:
            model = make_model(run.agent, run.game, run.seed, timesteps)
        model.learn(timesteps, [ReportCallback(report, checkpoint.interrupt), curve, checkpoint], log_interval=10**9)
        if checkpoint.interrupted:
            raise KeyboardInterrupt
        curve._on_rollout_start()
        if not curve.rows:
            raise ValueError(f"No episode ended within {timesteps} steps: raise --timesteps.")
        pd.DataFrame(curve.rows).to_csv(folder / "curve.csv", index=False)
        if getattr(model, "prior_lr", 0) > 0:
            model.prior_callback.save(folder / "prior_history.npz")
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def is_done(run: Run, out: Path) -> bool:
    return (out / run.folder / "curve.csv").exists()


def read(folders: dict[str, Path], games: list[str]) -> pd.DataFrame:
    """All finished runs of agents, each in its folder: game, agent, seed, timesteps, seconds, return."""
    frames = [
        pd.read_csv(path).assign(**Run.of(path.parent)._asdict())
        for game in games
        for agent, folder in folders.items()
        for path in sorted(folder.glob(f"cells/{game}/{agent}/seed_*/curve.csv"))
    ]
    if not frames:
        raise SystemExit("There are no finished runs yet.")
    return pd.concat(frames, ignore_index=True)


def read_priors(folders: dict[str, Path], games: list[str]) -> pd.DataFrame:
    """The learned priors of all finished runs of agents: game, agent, seed, timesteps, action, probability."""
    learned = {agent: folder for agent, folder in folders.items() if AGENTS[agent][1].get("prior_lr")}
    history = pd.concat([pd.DataFrame(), *(results.histories(folder) for folder in sorted(set(learned.values())))])
    if history.empty:
        return history
    return results.priors(history[history["agent"].isin(learned) & history["game"].isin(games)])


def runs_of(curves: pd.DataFrame) -> pd.DataFrame:
    """A line for each run: mean return over all of it (area), return at its end (final), and CPU seconds."""
    runs = curves.groupby(["game", "agent", "seed"], sort=False)
    return runs.agg(area=("return", "mean"), final=("return", "last"), seconds=("seconds", "last")).reset_index()


def tables(runs: pd.DataFrame, rows: dict[str, dict[str, str]], reps: int = statistics.REPS) -> str:
    """The rows of a figure, as :func:`table` writes them; those without a finished run are left out."""
    present = set(runs["agent"])
    return "\n".join(table(runs, title, names, reps) for title, names in rows.items() if present & names.keys())


def table(runs: pd.DataFrame, title: str, names: dict[str, str], reps: int) -> str:
    """
    One row of a figure as Markdown: for each game the areas, their differences from the first agent's, and the returns at
    the end, as means over the seeds with 95 % intervals. Then the mean of the differences over games, in units of the
    largest mean area of any agent, and the probability that a run has the larger area. Differences are paired by the seed,
    and are of those seeds that both agents have finished in every game that both have begun.

    :param runs: from :func:`runs_of`
    :param title: of the row
    :param names: of its agents
    :param reps: resamples of each bootstrap
    """
    area, final = (runs.pivot(index=["agent", "seed"], columns="game", values=name) for name in ("area", "final"))
    best = area.groupby("agent").mean().max()
    first, *others = [agent for agent in names if agent in set(runs["agent"])]
    cells: dict[str, dict[str, str]] = {}

    def note(line: str, agent: str, text: str) -> None:
        cells.setdefault(line, dict.fromkeys(names.values(), ""))[names[agent]] = text

    complete = {agent: area.loc[agent].dropna(axis=1, how="all").dropna() for agent in (first, *others)}
    pairs = {agent: complete[agent].align(complete[first], join="inner") for agent in others}
    for game in area:
        for agent in (first, *others):
            note(f"{game}", agent, interval(area.loc[agent][game].dropna(), reps))
        for agent, (x, y) in pairs.items():
            note(f"{game}, difference", agent, interval(x[game] - y[game] if game in x else x[[]], reps))
        for agent in (first, *others):
            note(f"{game}, at the end", agent, interval(final.loc[agent][game].dropna(), reps))
    for agent, (x, y) in ((agent, pair) for agent, pair in pairs.items() if len(pair[0])):
        won = statistics.probability_of_improvement({agent: x.to_numpy(), first: y.to_numpy()}, [(agent, first)], reps)
        note("all games, difference", agent, interval(((x - y) / best).mean(axis=1), reps))
        note("probability of a larger area", agent, format(won[f"{agent},{first}"], ".2f"))
        note("seeds", agent, f"{len(x)}")
    return markdown(pd.DataFrame(cells).T.rename_axis(title))


def interval(scores: pd.Series, reps: int) -> str:
    """Mean over the seeds [95 % interval of a bootstrap of the seeds]; nothing for no seed."""
    return "" if scores.empty else format(statistics.mean(scores.to_numpy(), reps), ".2f")


def write(curves: pd.DataFrame, rows: dict[str, dict[str, str]], part: str, out: Path) -> None:
    """The table and the figure of a part, and a line for each of its runs."""
    out.mkdir(exist_ok=True)
    runs = runs_of(curves)
    runs.assign(part=part).to_csv(out / "runs.csv", index=False, float_format="%.5g")
    text = tables(runs, rows)
    (out / "table.md").write_text(text)
    print(text)
    draw(curves, rows, "seconds" if part in DQN_STEPS else "timesteps", out / f"{part}.png")


def draw(curves: pd.DataFrame, rows: dict[str, dict[str, str]], x: str, path: Path) -> None:
    """
    Return of the last 100 episodes: a column for each game; thin lines are single seeds.

    :param rows: for each row of axes its agents, and their names
    :param x: "timesteps" or "seconds"
    """
    import matplotlib.pyplot as plt
    from _figures import line_style, shared_legend  # which draws to files only

    from sb3_mirl.plots import step_axis

    games = list(curves["game"].unique())
    figure, axes = plt.subplots(
        len(rows), len(games), figsize=(3 * len(games) + 0.5, 2.4 * len(rows) + 0.8), squeeze=False, layout="constrained",
        sharex="col", sharey="col",
    )  # fmt: skip
    for line, (title, names) in zip(axes, rows.items(), strict=True):
        for ax, game in zip(line, games, strict=True):
            for number, (agent, label) in enumerate(names.items()):
                style = line_style(number)
                runs = curves[(curves["game"] == game) & (curves["agent"] == agent)]
                points = runs.assign(point=runs.groupby("seed").cumcount()).groupby("point")[[x, "return"]].mean()
                for _, run_ in runs.groupby("seed"):
                    ax.plot(run_[x], run_["return"], **style, linewidth=0.5, alpha=0.35)
                ax.plot(points[x], points["return"], **style, label=label)
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{title}\nreturn")
    for top, bottom, game in zip(axes[0], axes[-1], games, strict=True):
        top.set_title(game.replace("_", " "), loc="left")
        bottom.set_xlabel("CPU seconds")
        if x == "timesteps":
            step_axis(bottom, float(curves["timesteps"].max()))
    shared_legend(figure, 2.6)  # the longest name's
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_priors(priors: pd.DataFrame, names: dict[str, str], path: Path) -> None:
    """
    The learned priors, means over the seeds: a column for each game, a row for each agent.

    :param priors: from :func:`read_priors`
    :param names: of the agents
    """
    import matplotlib.pyplot as plt
    from _figures import mean_prior

    games = list(priors["game"].unique())
    agents = [agent for agent in names if agent in set(priors["agent"])]
    size = 3.4 * len(games) + 0.5, 2.4 * len(agents) + 0.4
    figure, axes = plt.subplots(len(agents), len(games), figsize=size, squeeze=False, layout="constrained")
    for line, agent in zip(axes, agents, strict=True):
        line[0].set_ylabel(f"{names[agent]}\nρ(a)")
        for ax, game in zip(line, games, strict=True):
            runs = priors[(priors["agent"] == agent) & (priors["game"] == game)]
            if not runs.empty:
                mean_prior(ax, runs)
            ax.set_xlabel("")
            ax.set_title(game.replace("_", " ") if agent == agents[0] else "", loc="left")
    figure.supxlabel("environment steps")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def speed(networks: list[str], seconds: float, rounds: int) -> pd.DataFrame:
    """Environment steps per CPU second of training, SoftPQN and SoftDQN(beta = inf) in turns."""
    import torch as th

    th.set_num_threads(1)
    rows = []
    for name in networks:
        policy, game, network = NETWORKS[name]
        common = {"seed": 0, "device": "cpu", **network}
        hard = {"beta_schedule": "constant", "beta_init": math.inf, "learning_starts": 200, "buffer_size": 10_000, **common}
        models: dict[str, Any] = {
            "SoftDQN": SoftDQN(policy, environments(game, 8, 0), **hard),
            **{
                f"SoftPQN, minibatches of {512 // n}": SoftPQN(policy, environments(game, 16, 0), n_minibatches=n, **common)
                for n in (4, 16)
            },
        }
        for model in models.values():
            model.learn(600)
        for number in range(rounds):
            for agent, model in models.items():
                before, start = model.num_timesteps, time.process_time()
                while time.process_time() - start < seconds:
                    model.learn(512, reset_num_timesteps=False)
                rate = (model.num_timesteps - before) / (time.process_time() - start)
                rows.append({"network": name, "round": number, "agent": agent, "steps_per_cpu_second": rate})
                print(f"{name} round {number} {agent}: {rate:.0f} steps per CPU second", flush=True)
    table = pd.DataFrame(rows).set_index(["network", "round", "agent"])["steps_per_cpu_second"].unstack("agent")
    ratios = table.div(table["SoftDQN"], axis=0)
    return ratios.groupby("network").median().join(table.groupby("network").median(), rsuffix=", steps per CPU second")


NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "MinAtar": ("MlpPolicy", "breakout", {"policy_kwargs": NETWORK}),
    "NatureCNN": ("CnnPolicy", "Breakout", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "speed"])
    parser.add_argument("--games", nargs="+", metavar="GAME", help=f"{', '.join(GAMES)}; for `atari` its games")
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), metavar="AGENT", help="in place of the part's")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--timesteps", type=steps, default=1_000_000, help="environment steps of a run (default: 1e6)")
    add_machines(parser)
    parser.add_argument("--seconds", type=float, default=20, help="CPU seconds of a measurement of speed (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="of measurements of speed (default: 3)")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), help="of `speed`")
    parser.add_argument("--plots-only", action="store_true", help="run nothing, draw what there is in --out")
    parser.add_argument("--out", type=Path, default=Path("results/pg_soft_q"))
    args = parser.parse_args()
    if args.part == "speed":
        args.out.mkdir(parents=True, exist_ok=True)
        ratios = speed(args.networks, args.seconds, args.rounds)
        ratios.to_csv(args.out / "speed.csv")
        print(ratios.round(2).T.to_string())
        return
    games = args.games or (["Breakout"] if args.part == "atari" else list(GAMES))
    if args.part != "atari" and not set(games) <= set(GAMES):
        parser.error(f"--games must be among {', '.join(GAMES)}, got {' '.join(games)}")
    rows = rows_of(args.part, args.agents)
    agents = [agent for row in rows.values() for agent in row]
    lengths = {
        agent: int(args.timesteps * (DQN_STEPS.get(args.part, 1) if AGENTS[agent][0] is SoftDQN else 1)) for agent in agents
    }
    # a run of another length is another run; parts share the others
    folders = {agent: args.out / f"{length}_steps" for agent, length in lengths.items()}
    failed: list[Run] = []
    if not args.plots_only:
        runs = [Run(game, agent, seed) for seed in range(args.seeds) for game in games for agent in agents]
        for folder, length in {folders[agent]: lengths[agent] for agent in agents}.items():
            failed += execute([run for run in runs if folders[run.agent] == folder], train, is_done, length, folder, args)
    out = args.out / f"{args.part}_{args.timesteps:g}"
    write(read(folders, games), rows, args.part, out)
    priors = read_priors(folders, games)
    if not priors.empty:
        priors.to_csv(out / "priors.csv", index=False, float_format="%.4g")
        draw_priors(priors, {agent: title for title, row in rows.items() for agent in row}, out / "priors.png")
    print(f"Tables and figures in {out}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
