"""
Trains MIRL on an Atari game, saves and reloads it, evaluates it, and draws the course of the prior and of beta. Stopped or
killed, it goes on where it was by the same command.

    python examples/quickstart.py [--game Breakout] [--timesteps 45000] [--out results/demo/breakout]

The hyperparameters are scaled to minutes on two cores; the paper's own are the defaults of ``MIRL``.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_mirl import MIRL, ResumableCheckpoint, resume
from sb3_mirl.common.files import claimed
from sb3_mirl.envs import AtariVecEnv
from sb3_mirl.plots import plot_prior_history

SCALED_TO_MINUTES = dict(
    learning_rate=1e-4,
    buffer_size=100_000,
    learning_starts=2_000,
    target_update_interval=2_000,
    exploration_fraction=0.4,
    exploration_final_eps=0.05,
    beta_lr=3e-4,
    prior_lr=1e-4,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Breakout")
    parser.add_argument("--timesteps", type=int, default=45_000, help="environment steps (4 frames each)")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/demo/breakout"))
    args = parser.parse_args()
    with claimed(args.out):
        run(args)


def run(args: argparse.Namespace) -> None:
    env = AtariVecEnv(args.game, n_envs=args.n_envs, seed=args.seed)
    checkpoint = ResumableCheckpoint(args.out / "checkpoints", save_freq=10_000)
    if list((args.out / "checkpoints").glob("checkpoint_*")):
        model = resume(args.out / "checkpoints", env)
        print(f"Resuming {args.out} at step {model.num_timesteps}; remove this folder to begin anew")
    else:
        model = MIRL("CnnPolicy", env, seed=args.seed, tensorboard_log=str(args.out / "tensorboard"), **SCALED_TO_MINUTES)
    print(f"Training MIRL on {args.game}: {args.timesteps} environment steps on {model.device}", flush=True)
    model.learn(args.timesteps, callback=checkpoint, progress_bar=True)
    env.close()
    if checkpoint.interrupted:
        sys.exit("Stopped: the same command goes on.")

    model.save(args.out / "model")
    assert model.prior_callback is not None
    history = args.out / "prior_history.npz"
    model.prior_callback.save(history)

    loaded = MIRL.load(args.out / "model")
    evaluation = AtariVecEnv(args.game, n_envs=args.n_envs, seed=args.seed + 1000, training=False)
    loaded.exploration_rate = 0.05  # the paper's evaluation
    scores, _ = evaluate_policy(loaded, evaluation, n_eval_episodes=10, deterministic=False, return_episode_rewards=True)
    evaluation.close()

    with np.load(history) as data:
        figure = plot_prior_history(data, title=f"MIRL on {args.game}")
    figure.savefig(args.out / "prior_and_beta.png", dpi=150)
    plt.close(figure)

    print(f"\nScore of 10 games of the reloaded model: {np.mean(scores):.1f} ± {np.std(scores):.1f} (unclipped, epsilon 0.05)")
    print(f"Model            {args.out / 'model.zip'}")
    print(f"Prior's history  {history}")
    print(f"Figure           {args.out / 'prior_and_beta.png'}")
    print(f"TensorBoard      tensorboard --logdir {args.out / 'tensorboard'}")


if __name__ == "__main__":
    main()
