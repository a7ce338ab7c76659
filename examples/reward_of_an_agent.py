"""The reward behind MIRL's behaviour in the corridor, inferred with its prior and without it (a few seconds).

    python examples/reward_of_an_agent.py

The expert is the solution of the mutual-information-regularised problem at beta 1: +9 at the goal, -1 a step, and a prior that
favours going right. Its behaviour is explained by a bonus for entering the goal and by what going right or down is worth
against going up. (A cost per step and a bonus at the goal show in the same behaviour: without the cost, +9 and -1 are a bonus
of 10 + 99.) With the prior, directions are worth nothing. With a prior that is uniform over the actions taken they take up
log rho: what is habit looks like a wish.
"""

import argparse
from pathlib import Path

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

import sb3_mirl.envs  # noqa: F401  registers the corridor
from sb3_mirl.irl import MaxEntIRL, collect_trajectories, features_from_env
from sb3_mirl.tabular import TabularMDP, solve_mutual_information

BETA, GAMMA, EPISODES = 1.0, 0.99, 3000
NAMES = ("goal", "right", "down")
TAKEN = (0, 1, 2)  # up, right, down: the prior of going left is 0
UNIFORM = np.array([1, 1, 1, 0]) / 3
LIMIT = 3.5  # nats, of the colours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/reward_of_an_agent"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    env = gym.make("MirlCorridor-v0")
    mdp = TabularMDP.from_env(env, discount=GAMMA)
    expert = solve_mutual_information(mdp, BETA)
    print("prior of up, right, down, left:", expert.prior.round(4))
    episodes = collect_trajectories(expert.policy, env, EPISODES, seed=options.seed)
    acting = mdp.termination.min(axis=1) < 1
    features = corridor_features(env, acting)

    models = {}
    for title, prior in (("With the prior", expert.prior), ("With a uniform prior", UNIFORM)):
        model = MaxEntIRL(mdp, features, beta=BETA, prior=prior, feature_names=NAMES).fit(episodes)
        models[title] = model
        found = zip(NAMES, model.weights_, model.weight_errors_, strict=True)
        off = np.abs(model.policy_ - expert.policy)[acting].max()
        print(f"{title}:", ", ".join(f"{name} {weight:.3f} +- {error:.3f}" for name, weight, error in found), end="; ")
        print(f"largest policy error {off:.4f}")
    print(f"log rho(right) / rho(up) is {np.log(expert.prior[1] / expert.prior[0]):.3f}")
    figure(models, env, acting, options.out / "reward_of_an_agent.png")
    print(f"see {options.out}/")


def corridor_features(env: gym.Env, acting: np.ndarray) -> np.ndarray:
    """(S, A, 3): entering the goal, going right, going down."""
    table = env.unwrapped.P
    goals = {next_state for actions in table.values() for rows in actions.values() for _, next_state, r, _ in rows if r > 0}
    at_goal = np.isin(np.arange(len(acting)), list(goals))[:, None]
    directions = np.zeros((len(acting), 4, 2))
    directions[acting, 1, 0] = directions[acting, 2, 1] = 1
    return np.concatenate([features_from_env(env, at_goal), directions], axis=2)


def figure(models: dict[str, MaxEntIRL], env: gym.Env, acting: np.ndarray, file: Path) -> None:
    """Each cell in triangles, one per action, coloured by its reward."""
    drawing, axes = plt.subplots(2, 1, figsize=(10, 4.2), layout="constrained")
    for ax, (title, model) in zip(axes, models.items(), strict=True):
        shown = triangles(ax, model.reward_, acting, rows=3, columns=20)
        goal, right, _ = model.weights_
        ax.set_title(f"{title}: {goal:.0f} nats for entering the goal, {right:.2f} for going right", loc="left")
    bar = drawing.colorbar(shown, ax=axes, shrink=0.8, extend="max")
    bar.set_label("reward in nats (the goal is off the scale)")
    drawing.suptitle(
        "The reward behind MIRL's behaviour in the corridor, of going up, right and down in each cell (left is never taken)"
    )
    drawing.savefig(file, dpi=110)
    plt.close(drawing)


def triangles(ax: Axes, reward: np.ndarray, acting: np.ndarray, rows: int, columns: int) -> PolyCollection:
    # of the sides up, right, down, left
    corners = 0.94 * np.array([[-0.5, 0.5], [0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]])
    shapes, values = [], []
    for state in range(rows * columns):
        centre = np.array([state % columns, -(state // columns)])
        if not acting[state]:
            ax.text(*centre, "★", ha="center", va="center", fontsize=14)
            continue
        for action in TAKEN:
            shapes.append([centre, centre + corners[action], centre + corners[(action + 1) % 4]])
            values.append(reward[state, action])
    drawn = PolyCollection(shapes, array=np.array(values), cmap="RdBu", edgecolors="0.75", linewidths=0.5)
    drawn.set_clim(-LIMIT, LIMIT)
    ax.add_collection(drawn)
    ax.set(xlim=(-0.6, columns - 0.4), ylim=(-rows + 0.4, 0.6), aspect="equal")
    ax.axis("off")
    return drawn


if __name__ == "__main__":
    main()
