"""
Fine-tuning a policy that knows several ways (Haarnoja et al. 2017, section 5.3 and Figure 5, on the multi-goal plane):
pretrained on four goals, then only one of them counts.

    python examples/finetune_multigoal.py --seeds 5 --out results/finetune

Agents: sql (ContinuousSQL pretrained on four goals, then annealed: alpha from 10 to 0.1, the noises from 32 to 1, App. D.1),
scratch (the same without pretraining), sac (SB3's SAC with the same temperature pretrained on four goals, then its own
temperature). The seed decides which goal counts. Pretrained agents are those of examples/reproduce_multigoal.py, taken from
--pretrained where they are there.

Finished runs are kept; the same command goes on with the others. Needs the extra plots. Writes to --out: returns.csv,
summary.md (paired tests over the seeds), figure_finetune.png.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd
import torch as th
from _command_line import add_machines, execute, steps
from reproduce_multigoal import ENV, end, is_done, policy_of
from reproduce_multigoal import train as pretrain
from scipy.stats import ttest_rel
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl import ContinuousSQL, budget, hyperparameters
from sb3_mirl.common.files import claimed, write_whole
from sb3_mirl.envs.multigoal import GOALS, rollouts
from sb3_mirl.experiments import ReportCallback, Run
from sb3_mirl.experiments.work import Reporter

AGENTS = ("sql", "scratch", "sac")
EPISODES = 50
WARM_UP = 100  # steps with random actions, which fill the new replay memory
# reward; App. D.1 has 1e-3 for alpha 0.1
ANNEALING: dict[str, Any] = {"ent_coef": 10.0, "ent_coef_final": 0.1, "n_noise_final": 1, "anneal_fraction": 0.5}


class Returns(BaseCallback):
    """The return of 50 episodes every so often; training is the same with and without them."""

    def __init__(self, every: int, label: dict[str, Any]) -> None:
        super().__init__()
        self.every, self.label = every, label
        self.rows: list[dict[str, Any]] = []

    def note(self) -> None:
        goal, seed, state = self.label["goal"], self.label["seed"], th.get_rng_state()
        found = rollouts(policy_of(self.model), EPISODES, seed, goals=GOALS[goal : goal + 1])
        self.rows.append(
            {**self.label, "step": self.num_timesteps, "return": found.returns.mean(), "share": found.shares[goal]}
        )
        th.set_rng_state(state)

    def _on_training_start(self) -> None:
        self.note()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            self.note()
        return True


def make(agent: str, seed: int, goal: int, pretrained: Path) -> BaseAlgorithm:
    """An agent in the task with one goal."""
    env = gym.make(ENV, goal=goal)
    changed: dict[str, Any] = {"learning_starts": WARM_UP, "train_freq": 2, "learning_rate": 1e-3, "seed": seed}
    if agent != "scratch":
        of_four = "sac" if agent == "sac" else "sql"
        before = Run(ENV, of_four, seed)
        pretrain(before, budget("continuoussql", ENV), pretrained, lambda steps: None)
        path = pretrained / before.folder / "model"
        if agent == "sac":
            four = SAC.load(path, device="cpu")
            kept = {name: getattr(four, name) for name in ("batch_size", "tau", "policy_kwargs")}
            model = SAC("MlpPolicy", env, device="cpu", ent_coef="auto_10", **kept, **changed)
            model.policy.load_state_dict(four.policy.state_dict())
            return model
        return ContinuousSQL.load(path, env=env, device="cpu", **changed, **ANNEALING, sampler_learning_rate=1e-3)
    values = {**hyperparameters("continuoussql", ENV), **changed, **ANNEALING, "sampler_learning_rate": 1e-3}
    return ContinuousSQL(env=env, device="cpu", **values)


def train(run: Run, pretrained: Path, timesteps: int, out: Path, report: Reporter) -> None:
    """Fine-tune one agent, unless that is done."""
    with claimed(out / run.folder):
        if is_done(run, out):
            return
        goal = run.seed % len(GOALS)
        returns = Returns(max(timesteps // 20, 1), {"agent": run.agent, "seed": run.seed, "goal": goal})
        make(run.agent, run.seed, goal, pretrained).learn(timesteps, callback=[returns, ReportCallback(report, end)])
        table = pd.DataFrame(returns.rows)
        write_whole(out / run.folder / "rows.csv", "csv", lambda part: table.to_csv(part, index=False))


def summary(rows: pd.DataFrame) -> str:
    """Returns at the beginning, in the mean over the training, and at its end; and paired tests of sql against the others."""
    from sb3_mirl.experiments.results import markdown

    wide = rows.pivot_table(index=["agent", "seed"], columns="step", values="return")
    numbers = pd.DataFrame({"first": wide.iloc[:, 0], "mean over the run": wide.mean(axis=1), "last": wide.iloc[:, -1]})
    lines = {}
    for agent, runs in numbers.groupby("agent", sort=False):
        lines[agent] = {name: f"{values.mean():.0f} ± {values.std():.0f} ({len(values)})" for name, values in runs.items()}
    text = markdown(pd.DataFrame(lines).T.rename_axis("return, mean ± sd (seeds)"))
    for other in ("scratch", "sac"):
        if not {"sql", other} <= set(rows["agent"]):
            continue
        pairs = numbers.loc["sql"].join(numbers.loc[other], rsuffix=" of other", how="inner")
        if len(pairs) > 1:
            for name in ("mean over the run", "last"):
                difference = pairs[name] - pairs[f"{name} of other"]
                p = ttest_rel(pairs[name], pairs[f"{name} of other"]).pvalue
                text += f"\nsql - {other}, {name}: {difference.mean():.0f}, paired t-test p = {p:.3f}, n = {len(pairs)}"
    return text + "\n"


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Return over steps: every seed, and their mean. The axis is logarithmic: first returns are twenty times the last."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from sb3_mirl.plots import ACTION_COLOURS

    figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for colour, (agent, runs) in zip(ACTION_COLOURS, rows.groupby("agent", sort=False), strict=False):
        wide = runs.pivot(index="seed", columns="step", values="return")
        ax.plot(wide.columns, wide.T, color=colour, alpha=0.3, linewidth=0.8)
        ax.plot(wide.columns, wide.mean(), color=colour, linewidth=2, label=str(agent))
    ax.set(xlabel="environment steps with one goal", ylabel="return", yscale="symlog", ylim=(None, -100))
    ticks = (-5000, -2000, -1000, -500, -200, -100)
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--agents", nargs="+", default=list(AGENTS), choices=AGENTS, metavar="AGENT", help=", ".join(AGENTS))
    add("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    add("--timesteps", type=steps, default=6000, help="environment steps (default: 6000)")
    add_machines(parser)
    add("--pretrained", type=Path, default=Path("results/multigoal"), help="(default: results/multigoal)")
    add("--out", type=Path, default=Path("results/finetune"), help="(default: results/finetune)")
    add("--plots-only", action="store_true", help="run nothing, show what there is in --out")
    args = parser.parse_args()
    runs = [Run(ENV, agent, seed) for seed in range(args.seeds) for agent in args.agents]
    failed: list[Run] = []
    if not args.plots_only:
        failed = execute(runs, train, is_done, args.timesteps, args.out, args, pretrained=args.pretrained.absolute())
    files = [path for agent in AGENTS for path in sorted(args.out.glob(f"cells/{ENV}/{agent}/seed_*/rows.csv"))]
    if not files:
        sys.exit(f"There are no results in {args.out} yet.")
    rows = pd.concat([pd.read_csv(path) for path in files], ignore_index=True)
    rows.to_csv(args.out / "returns.csv", index=False, float_format="%.5g")
    text = f"`python examples/finetune_multigoal.py --seeds {args.seeds} --timesteps {args.timesteps}`\n\n{summary(rows)}"
    (args.out / "summary.md").write_text(text)
    print(text)
    draw(rows, args.out / "figure_finetune.png")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
