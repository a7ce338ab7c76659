"""
VIREL against SAC: the critics' own error as the temperature, the paper's two constant-temperature variants, and SB3's SAC.

    python examples/reproduce_virel.py --envs Pendulum-v1 --seeds 5 --timesteps 2e4 --jobs 2 --out results/virel

Needs the extras zoo (box2d, mujoco) and plots. Agents: sac (the zoo's values), virel (adaptive temperature, the values of
zoo_configs/virel.yml), virel1 and virel2 (T = 0.2, hard and mixed critics). More can be made of virel by changing arguments,
such as the sensitivity to the one constant that the paper leaves out, and to how the residual is estimated:

    python examples/reproduce_virel.py --envs Pendulum-v1 --seeds 3 --timesteps 1e4 --out results/virel_scale --agents \\
        virel:residual_scale=0.004 virel:residual_scale=0.012 virel:residual_scale=0.1 virel:residual_scale=1 \\
        virel:residual_scale=0.1,residual_estimator=double

Finished runs are kept and a killed one goes on from its last snapshot: the same command continues, on the CPU to the last
bit; several commands may work on one folder, and `--ray` shares the work among machines. To go on from the runs of the
results page:

    mkdir -p results/virel && tar xzf examples/runs/virel.tar.gz -C results/virel

Each snapshot is evaluated on 10 episodes with the deterministic policy.

Writes to --out: runs.csv, table.md (mean over seeds with 95 % intervals, last and best snapshot), and curves.png with the
return, T and the entropy of the policy against steps.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch as th
import yaml
from _command_line import add_machines, execute, steps
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

from sb3_mirl import VIREL, ResumableCheckpoint, resume
from sb3_mirl.common.files import claimed, write_whole
from sb3_mirl.experiments import ReportCallback, Run
from sb3_mirl.experiments.work import Reporter

ENVS = ("Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3", "Swimmer-v4", "Hopper-v4")
AGENTS: dict[str, dict[str, Any]] = {
    "sac": {},
    "virel": {},
    "virel1": {"ent_coef": 0.2, "critics": "hard"},
    "virel2": {"ent_coef": 0.2, "critics": "mixed"},
}
ROOT = Path(__file__).resolve().parents[1]
QUANTITIES = {"score": "return", "temperature": "T", "entropy": "entropy of π (nats)"}
EPISODES = 10


class Snapshots(EvalCallback):
    """
    Evaluates as SB3 does, and writes the returns with what the training has logged at these steps to ``rows.csv``; a resumed
    run goes on with both.
    """

    def __init__(self, env: Any, every: int, folder: Path, label: dict[str, Any]) -> None:
        super().__init__(env, eval_freq=every, n_eval_episodes=EPISODES, log_path=str(folder), verbose=0)
        self.folder, self.label = folder, label
        self.rows: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        logged = dict(self.model.logger.name_to_value)  # an evaluation empties it
        # training is the same however often one evaluates
        state, torch_state = np.random.get_state(), th.get_rng_state()
        super()._on_step()
        np.random.set_state(state)
        th.set_rng_state(torch_state)
        if self.n_calls % self.eval_freq == 0:
            self.rows.append({
                **self.label,
                "timesteps": self.num_timesteps,
                "score": float(self.last_mean_reward),
                "temperature": float(logged.get("train/ent_coef", np.nan)),
                "residual": float(logged.get("train/residual", np.nan)),
                "entropy": float(logged.get("train/entropy", np.nan)),
                "std": float(logged.get("train/std", np.nan)),
            })  # fmt: skip
            write_whole(self.folder / "rows.csv", "csv", lambda part: pd.DataFrame(self.rows).to_csv(part, index=False))
        return True


def changes_of(agent: str) -> dict[str, Any]:
    """
    :param agent: a key of :data:`AGENTS`, after a colon with arguments that differ
    :raises SystemExit: if it is not known
    """
    name, _, changes = agent.partition(":")
    if name not in AGENTS:
        raise SystemExit(f"Unknown agent {name!r}, choose from {', '.join(AGENTS)}.")
    pairs = [change.partition("=") for change in changes.split(",") if change]
    return {**AGENTS[name], **{key: yaml.safe_load(value) for key, _, value in pairs}}


def zoo_values(algo: str, env_id: str) -> dict[str, Any]:
    """The arguments that the zoo's configuration (SAC), or ours (VIREL), has for an environment."""
    if algo == "sac":
        import rl_zoo3

        path = Path(rl_zoo3.__file__).parent / "hyperparams" / "sac.yml"
    else:
        path = ROOT / "zoo_configs" / "virel.yml"
    values = dict(yaml.safe_load(path.read_text())[env_id])
    del values["n_timesteps"]
    if "policy_kwargs" in values:
        values["policy_kwargs"] = eval(values["policy_kwargs"])  # as the zoo does, with files that come with the packages
    if str(values.get("learning_rate", "")).startswith("lin_"):
        values["learning_rate"] = LinearSchedule(float(values["learning_rate"].removeprefix("lin_")), 0.0, 1.0)
    return values


def make_model(agent: str, env_id: str, seed: int, env: Any) -> BaseAlgorithm:
    algo = "sac" if agent.partition(":")[0] == "sac" else "virel"
    arguments = {**zoo_values(algo, env_id), **changes_of(agent)}
    return (SAC if algo == "sac" else VIREL)(env=env, seed=seed, device="cpu", **arguments)


def train(run: Run, timesteps: int, every: int, out: Path, report: Reporter) -> None:
    """One run, from its last checkpoint if there is one."""
    folder = out / run.folder
    with claimed(folder):
        if is_done(run, out):
            return
        checkpoint = ResumableCheckpoint(folder / "checkpoint", every, keep=1)
        env = make_vec_env(run.game, seed=run.seed)
        if checkpoint.exists():
            model = resume(checkpoint.folder, env, "cpu")
        else:
            model = make_model(run.agent, run.game, run.seed, env)
        label = {"env": run.game, "agent": run.agent, "seed": run.seed}
        snapshots = Snapshots(make_vec_env(run.game, seed=10_000 + run.seed), every, folder, label)
        model.learn(timesteps, callback=[ReportCallback(report, checkpoint.interrupt), snapshots, checkpoint])
        if checkpoint.interrupted:
            raise KeyboardInterrupt
        model.save(folder / "model")
        (folder / "done").touch()
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def is_done(run: Run, out: Path) -> bool:
    return (out / run.folder / "done").exists()


def table(rows: pd.DataFrame) -> str:
    """Return over the seeds, last and best snapshot, in Markdown: mean [95 % interval] (number of seeds)."""
    from sb3_mirl.experiments import statistics
    from sb3_mirl.experiments.results import markdown

    cells: dict[tuple[str, str], str] = {}
    for (env_id, agent), runs in rows.groupby(["env", "agent"], sort=False):
        complete = runs[runs["timesteps"] <= runs.groupby("seed")["timesteps"].max().min()]
        wide = complete.pivot(index="seed", columns="timesteps", values="score")
        for name, values in (("last", wide.iloc[:, -1]), ("best", wide.max(axis=1))):
            estimate = statistics.mean(values.to_numpy())
            cells[f"{env_id}, {name} of {wide.columns[-1]:g} steps", str(agent)] = f"{estimate:.0f} ({len(values)})"
    wide_cells = pd.Series(cells).unstack().rename_axis("mean return (seeds)")
    order = list(dict.fromkeys(row for row, _ in cells)), list(dict.fromkeys(rows["agent"]))
    return markdown(wide_cells.loc[order].fillna(""))


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Return, T and entropy against steps: one column per environment; mean over the seeds, 95 % bootstrap interval."""
    import matplotlib.pyplot as plt
    from _figures import line_style, shared_legend  # which draws to files only

    from sb3_mirl.experiments import statistics
    from sb3_mirl.plots import step_axis

    envs, agents = list(dict.fromkeys(rows["env"])), list(dict.fromkeys(rows["agent"]))
    figure, axes = plt.subplots(
        len(QUANTITIES), len(envs), figsize=(max(5, 4 * len(envs)), 7.5), squeeze=False, layout="constrained", sharex="col"
    )  # fmt: skip
    for column, env_id in enumerate(envs):
        for ax, (name, label) in zip(axes[:, column], QUANTITIES.items(), strict=True):
            for number, agent in enumerate(agents):
                runs = rows[(rows["env"] == env_id) & (rows["agent"] == agent)]
                wide = runs.pivot(index="seed", columns="timesteps", values=name).dropna(axis="columns")
                if not wide.empty:
                    mean, low, high = statistics.mean(wide.to_numpy())
                    (line,) = ax.plot(wide.columns, mean, label=agent, **line_style(number))
                    ax.fill_between(wide.columns, low, high, alpha=0.18, linewidth=0, color=line.get_color())
            ax.set_ylabel(label if column == 0 else "")
            if name == "temperature":
                ax.set_yscale("log")
        axes[0, column].set_title(env_id, loc="left")
        step_axis(axes[-1, column], float(rows.loc[rows["env"] == env_id, "timesteps"].max()))
    shared_legend(figure, (max(map(len, agents)) + 8) / 12)  # at about 12 letters to an inch
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--envs", nargs="+", default=list(ENVS), metavar="ENV", help=f"of zoo_configs/virel.yml (default: {', '.join(ENVS)})")
    add("--agents", nargs="+", default=list(AGENTS), metavar="AGENT", help=f"{', '.join(AGENTS)}, or virel:ARGUMENT=VALUE,...")
    add("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    add("--first-seed", type=int, default=0, help="the others follow it (default: 0)")
    add("--timesteps", type=steps, default=20_000, help="environment steps of a run (default: 2e4)")
    add("--snapshot-every", type=steps, default=2_000, help="environment steps (default: 2e3)")
    add_machines(parser)
    add("--out", type=Path, default=Path("results/virel"), help="(default: results/virel)")
    add("--plots-only", action="store_true", help="run nothing, show what there is in --out")
    args = parser.parse_args()
    for agent in args.agents:
        changes_of(agent)

    # the first seed of everything first: an experiment that is cut off still compares all agents
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    runs = [Run(env_id, agent, seed) for seed in seeds for env_id in args.envs for agent in args.agents]
    failed: list[Run] = []
    if not args.plots_only:
        failed = execute(runs, train, is_done, args.timesteps, args.out, args, every=args.snapshot_every)
    files = [path for run in runs if (path := args.out / run.folder / "rows.csv").exists()]
    if not files:
        sys.exit(f"There are no results in {args.out} yet.")
    rows = pd.concat([pd.read_csv(path) for path in files], ignore_index=True)
    rows.to_csv(args.out / "runs.csv", index=False, float_format="%.6g")
    (args.out / "table.md").write_text(table(rows))
    print(table(rows))
    draw(rows, args.out / "curves.png")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
