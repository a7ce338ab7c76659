"""
The multi-goal figure of Haarnoja et al. 2017 (Figure 1): four equally good goals, and which of them each algorithm keeps.

    python examples/reproduce_multigoal.py --seeds 10 --jobs 2 --out results/multigoal

Agents: sql (ContinuousSQL, the values of zoo_configs/continuoussql.yml), sac (SB3's, with the same temperature), sac_auto
(with its own), ddpg (SB3's, with Ornstein-Uhlenbeck noise); all with the same network, batch, warm-up and number of updates.
Beside them: exact (the Boltzmann policy of soft value iteration), sql_q (the Boltzmann policy of what sql has learned as Q: if
it loses goals, the fault is Q's and not the sampler's), and exact_q (a sampler that is trained on the exact Q).

Finished runs are kept; the same command goes on with the others. Each snapshot is 200 episodes of the stochastic policy (DDPG:
of the policy without noise). Needs the extra plots. Writes to --out: rollouts.csv, summary.md, figure_multigoal.png.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch as th
from _command_line import add_machines, execute, steps
from stable_baselines3 import DDPG, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from torch import nn

from sb3_mirl import ContinuousSQL, budget, hyperparameters
from sb3_mirl.common.files import claimed, write_whole
from sb3_mirl.continuous_sql import update
from sb3_mirl.continuous_sql.policies import SamplerPolicy, q_values
from sb3_mirl.envs.multigoal import ACTION_COST, BOUND, GOAL_DISTANCE, GOAL_REWARD, GOALS, Rollouts, Solution, rollouts, solve
from sb3_mirl.experiments import ReportCallback, Run
from sb3_mirl.experiments.work import Reporter

ENV = "MirlMultiGoal-v0"
AGENTS = ("sql", "sac", "sac_auto", "ddpg", "exact_q")
ORDER = ("exact", "exact_q", "sql", "sql_q", "sac", "sac_auto", "ddpg")  # of tables and pictures
EPISODES = 200
GAMMA = 0.99
STATES = ((-2.0, 0.0), (0.0, 0.0), (2.5, 2.5))  # of the paper's Figure 1
SHARES = ["share_0", "share_1", "share_2", "share_3", "none"]
CELLS = 20  # of the grid of velocities, in each direction


def make_model(agent: str, seed: int, timesteps: int) -> BaseAlgorithm:
    """An agent before its training."""
    values = hyperparameters("continuoussql", ENV)
    values["learning_starts"] = min(values["learning_starts"], timesteps // 3)
    common = {**values, "seed": seed, "device": "cpu"}
    if agent == "sql":
        return ContinuousSQL(env=ENV, **common)
    common["policy_kwargs"] = {"net_arch": values["policy_kwargs"]["net_arch"]}
    for name in ("sampler_learning_rate", "n_particles", "n_kernel_particles", "n_value_particles"):
        del common[name]
    if agent == "ddpg":
        del common["ent_coef"], common["target_update_interval"]
        noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.3), theta=0.15)  # App. D.1
        return DDPG(env=gym.make(ENV), action_noise=noise, **common)
    if agent == "sac_auto":
        common["ent_coef"] = "auto"
    return SAC(env=gym.make(ENV), **common)


def policy_of(model: BaseAlgorithm) -> Callable[[np.ndarray], np.ndarray]:
    """From positions to velocities, drawn (DDPG: without noise)."""
    return lambda positions: model.predict(positions.astype(np.float32), deterministic=isinstance(model, DDPG))[0]


def boltzmann_of_q(model: ContinuousSQL, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """The Boltzmann policy of the learned Q, on a grid of velocities."""
    rng, width = np.random.default_rng(seed), 2 / CELLS
    axis = (np.arange(CELLS) + 0.5) * width - 1
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)

    def act(positions: np.ndarray) -> np.ndarray:
        q = learned_q(model, positions, grid) / model.policy.ent_coef.item()
        cumulative = np.exp(q - q.max(1, keepdims=True)).cumsum(1)
        drawn = (cumulative < rng.random((len(q), 1)) * cumulative[:, -1:]).sum(1)
        return grid[drawn] + (rng.random((len(q), 2)) - 0.5) * width

    return act


@th.no_grad()
def learned_q(model: ContinuousSQL, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """(n, A) Q of velocities (A, 2) at positions (n, 2)."""
    obs = th.as_tensor(positions, dtype=th.float32)
    features = model.critic.extract_features(obs, model.critic.features_extractor)
    return (
        q_values(model.critic, features, th.as_tensor(velocities, dtype=th.float32).expand(len(obs), -1, -1)).double().numpy()
    )


def value_error(model: ContinuousSQL, solution: Solution) -> float:
    """Root mean squared error of V over positions of the grid where episodes can be."""
    axis = solution.grid[4:-4:4]
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    outside = np.linalg.norm(positions[:, None] - GOALS, axis=-1).min(1) >= GOAL_DISTANCE
    positions = positions[outside & (np.abs(positions).sum(1) <= 5)].astype(np.float32)
    return float(np.sqrt(np.mean((model.soft_value(positions, 500) - solution.value(positions)) ** 2)))


class ExactQ(nn.Module):
    """The exact Q, differentiable: V is linear between the points of its grid."""

    def __init__(self, solution: Solution) -> None:
        super().__init__()
        self.gamma = solution.gamma
        # grid_sample's last axis is x
        self.register_buffer("v", th.as_tensor(solution.v.T.copy(), dtype=th.float32)[None, None])
        self.register_buffer("goals", th.as_tensor(GOALS, dtype=th.float32))

    def forward(self, rows: th.Tensor) -> th.Tensor:
        """
        :param rows: (..., 4) position and velocity
        :return: (..., 1)
        """
        position, velocity = rows[..., :2], rows[..., 2:]
        following = (position + velocity).clamp(-BOUND, BOUND)
        nearest = (following.unsqueeze(-2) - self.goals).square().sum(-1).amin(-1, keepdim=True)
        reached = nearest < GOAL_DISTANCE**2
        points = (following / BOUND).reshape(1, 1, -1, 2)
        value = nn.functional.grid_sample(self.v, points, align_corners=True).reshape(nearest.shape)
        cost = ACTION_COST * velocity.square().sum(-1, keepdim=True)
        return -cost - nearest + th.where(reached, th.full_like(value, GOAL_REWARD), self.gamma * value)


def sampler_of_exact_q(seed: int, solution: Solution, steps: int = 3000) -> ContinuousSQL:
    """ContinuousSQL whose sampler has followed the exact Q from the beginning, at positions all over the plane."""
    model = make_model("sql", seed, 100)
    assert isinstance(model, ContinuousSQL)
    model.critic.q_networks = [ExactQ(solution)]  # type: ignore[list-item]
    optimizer = th.optim.Adam(model.actor.parameters(), lr=1e-3)
    schedule = th.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    policy: SamplerPolicy = model.policy
    for _ in range(steps):
        positions = th.rand(64, 2) * 12 - 6
        optimizer.zero_grad()
        update.sampler_step(policy, positions, 16, 16, "latent").loss.backward()
        optimizer.step()
        schedule.step()
    return model


class Snapshots(BaseCallback):
    """200 episodes every so often; training is the same with and without them."""

    def __init__(self, every: int, seed: int, algo: str) -> None:
        super().__init__()
        self.every, self.seed, self.algo = every, seed, algo
        self.rows: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            state = th.get_rng_state()
            self.rows.append(
                row(self.algo, self.seed, self.num_timesteps, rollouts(policy_of(self.model), EPISODES, self.seed))
            )
            th.set_rng_state(state)
        return True


def row(algo: str, seed: int, step: int, found: Rollouts) -> dict[str, Any]:
    """One line of rollouts.csv."""
    shares = dict(zip(SHARES, found.shares.tolist(), strict=True))
    result = {"return": found.returns.mean(), "length": found.lengths.mean(), "value_error": np.nan}
    return {"seed": seed, "algo": algo, "step": step, **shares, **result}


def train(run: Run, timesteps: int, out: Path, report: Reporter) -> None:
    """Train and evaluate one agent, unless that is done."""
    folder, agent, seed = out / run.folder, run.agent, run.seed
    with claimed(folder):
        if is_done(run, out):
            return
        if agent == "exact_q":
            th.manual_seed(seed)
            solution = solve(10.0, GAMMA)
            rows = [row(agent, seed, 0, rollouts(policy_of(sampler_of_exact_q(seed, solution)), EPISODES, seed))]
        else:
            model = make_model(agent, seed, timesteps)
            snapshots = Snapshots(max(timesteps // 8, 1), seed, agent)
            model.learn(timesteps, callback=[snapshots, ReportCallback(report, end)])
            model.save(folder / "model")
            rows = [*snapshots.rows, row(agent, seed, timesteps, rollouts(policy_of(model), EPISODES, seed + 1000))]
            if isinstance(model, ContinuousSQL):
                rows[-1]["value_error"] = value_error(model, solve(10.0, GAMMA))
                rows.append(row("sql_q", seed, timesteps, rollouts(boltzmann_of_q(model, seed), EPISODES, seed + 1000)))
        write_whole(folder / "rows.csv", "csv", lambda part: pd.DataFrame(rows).to_csv(part, index=False))


def is_done(run: Run, out: Path) -> bool:
    return (out / run.folder / "rows.csv").exists()


def end() -> None:
    """Give a run up: it takes a minute or two, and begins anew."""
    raise KeyboardInterrupt


def table(rows: pd.DataFrame) -> str:
    """One line for each algorithm, at the end of its runs, in Markdown."""
    from sb3_mirl.experiments.results import markdown

    lines = {}
    for algo, runs in rows.groupby("algo", sort=False):
        last = runs.sort_values("step", kind="stable").groupby("seed").tail(1)
        shares = last[SHARES[:4]].to_numpy()
        smallest, n = shares.min(1), len(last)
        error = last["value_error"].mean()
        lines[algo] = {
            "seeds": str(n),
            "all four >= 15 % / 10 % / 5 %": " / ".join(str((smallest >= share - 1e-9).sum()) for share in (0.15, 0.1, 0.05)),
            "smallest share, mean (worst)": f"{smallest.mean():.3f} ({smallest.min():.3f})",
            "goals with >= 5 %": f"{(shares >= 0.05).sum(1).mean():.1f}",
            "no goal": f"{last['none'].mean():.3f}",
            "return": f"{last['return'].mean():.0f}" + (f" ± {last['return'].std():.0f}" if n > 1 else ""),
            "length": f"{last['length'].mean():.1f}",
            "error of V": "" if np.isnan(error) else f"{error:.1f}",
        }
    return markdown(pd.DataFrame(lines).T.rename_axis("algorithm"))


def draw(out: Path, rows: pd.DataFrame, solution: Solution, path: Path) -> None:
    """Trajectories over the reward's level curves; Q with actions, learned and exact; others over the exact Q."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from sb3_mirl.plots import ACTION_COLOURS

    rng = np.random.default_rng(0)
    models: dict[str, Any] = {}
    for agent, cls in (("sql", ContinuousSQL), ("sac", SAC), ("sac_auto", SAC), ("ddpg", DDPG)):
        files = sorted((out / Run(ENV, agent, 0).folder).parent.glob("*/model.zip"))
        if files:
            models[agent] = cls.load(files[0], device="cpu")
    policies = {"exact": lambda positions: solution.sample(positions, rng)}
    policies |= {agent: policy_of(model) for agent, model in models.items()}
    figure, axes = plt.subplots(3, 5, figsize=(17, 10.5), layout="constrained")
    axis = np.linspace(-BOUND, BOUND, 141)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    distance = ((np.stack([x, y], -1)[..., None, :] - GOALS) ** 2).sum(-1).min(-1)
    for ax, (name, act) in zip(axes[0], policies.items(), strict=False):
        ax.contour(x, y, -distance, levels=12, colors="0.8", linewidths=0.8)
        found = rollouts(act, 40, 1)
        for path_, goal in zip(found.paths, found.goal, strict=True):
            ax.plot(*path_.T, color=ACTION_COLOURS[goal % len(ACTION_COLOURS)] if goal >= 0 else "0.5", linewidth=0.8)
        ax.plot(*GOALS.T, "o", color="black", markersize=6)
        ax.set(title=name, aspect="equal", xlim=(-BOUND, BOUND), ylim=(-BOUND, BOUND))
    velocities = np.linspace(-0.99, 0.99, 41)
    grid = np.stack(np.meshgrid(velocities, velocities, indexing="ij"), -1).reshape(-1, 2)

    def actions(ax: Any, q: np.ndarray, drawn: np.ndarray, title: str) -> None:
        ax.contourf(velocities, velocities, q.reshape(41, 41).T, levels=20, cmap="Greys_r")
        ax.plot(*drawn.T, ".", color=ACTION_COLOURS[1], markersize=3)
        ax.set(title=title, aspect="equal", xlim=(-1, 1), ylim=(-1, 1))

    exact = nn.Sequential(ExactQ(solution))
    for column, state in enumerate(STATES):
        positions = np.tile(state, (300, 1))
        here = th.as_tensor(np.concatenate([np.tile(state, (len(grid), 1)), grid], 1), dtype=th.float32)
        q = exact(here).numpy().ravel()
        if "sql" in models:
            learned = learned_q(models["sql"], positions[:1], grid)
            actions(axes[1, column], learned, policies["sql"](positions), f"sql at {state}")
        actions(axes[2, column], q, solution.sample(positions, rng), f"exact at {state}")
    for ax, agent in zip((axes[1, 3], axes[1, 4], axes[2, 3]), ("sac", "sac_auto", "ddpg"), strict=True):
        if agent in policies:
            actions(ax, q, policies[agent](positions), f"{agent} at {state}")
    smallest = {
        str(algo): runs.sort_values("step", kind="stable").groupby("seed").tail(1)[SHARES[:4]].min(axis=1)
        for algo, runs in rows.groupby("algo", sort=False)
    }
    for number, shares in enumerate(smallest.values()):
        axes[2, 4].plot(
            np.full(len(shares), number), shares, "o", alpha=0.5, color=ACTION_COLOURS[number % len(ACTION_COLOURS)]
        )
    axes[2, 4].axhline(0.25, color="0.6", linewidth=0.8)
    axes[2, 4].set_xticks(range(len(smallest)), list(smallest), rotation=30)
    axes[2, 4].set(title="smallest share of a goal, per seed", ylim=(-0.01, 0.27))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    default = budget("continuoussql", ENV)
    add("--agents", nargs="+", default=list(AGENTS), choices=AGENTS, metavar="AGENT", help=", ".join(AGENTS))
    add("--seeds", type=int, default=10, help="number of seeds (default: 10)")
    add("--first-seed", type=int, default=0, help="the others follow it (default: 0)")
    add("--timesteps", type=steps, default=default, help=f"environment steps (default: {default:g})")
    add_machines(parser)
    add("--out", type=Path, default=Path("results/multigoal"), help="(default: results/multigoal)")
    add("--plots-only", action="store_true", help="run nothing, show what there is in --out")
    args = parser.parse_args()

    # the first seed of every agent first: an experiment that is cut off still compares all of them
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    runs = [Run(ENV, agent, seed) for seed in seeds for agent in args.agents]
    failed: list[Run] = []
    if not args.plots_only:
        failed = execute(runs, train, is_done, args.timesteps, args.out, args)
    files = sorted(args.out.glob("cells/*/*/seed_*/rows.csv"))
    if not files:
        sys.exit(f"There are no results in {args.out} yet.")
    solution = solve(10.0, GAMMA)
    rng = np.random.default_rng(0)
    exact = [
        row("exact", seed, 0, rollouts(lambda positions: solution.sample(positions, rng), EPISODES, seed)) for seed in seeds
    ]
    rows = pd.concat([pd.DataFrame(exact), *(pd.read_csv(path) for path in files)], ignore_index=True)
    rows = rows.sort_values("algo", key=lambda names: names.map(ORDER.index), kind="stable", ignore_index=True)
    rows.to_csv(args.out / "rollouts.csv", index=False, float_format="%.4g")
    command = f"python examples/reproduce_multigoal.py --seeds {args.seeds} --timesteps {args.timesteps}"
    summary = f"`{command}`; {EPISODES} episodes per seed, gamma {GAMMA}, alpha 10\n\n{table(rows)}"
    (args.out / "summary.md").write_text(summary)
    print(summary)
    draw(args.out, rows, solution, args.out / "figure_multigoal.png")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
