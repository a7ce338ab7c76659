"""
Trains MIRL on an Atari game, saves and reloads it, evaluates it, and draws the course of the prior and of beta. Stopped or
killed, it goes on where it was by the same command.

    python examples/quickstart.py [--game Breakout] [--timesteps 45000] [--out results/quickstart]

``MIRL`` chooses its hyperparameters from the number of steps; at 5e7 they are the paper's. 45 000 steps take minutes on two
cores and show that everything works, 2e6 take hours and an agent that plays Breakout.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from sb3_mirl import MIRL, ResumableCheckpoint, resume
from sb3_mirl.common.files import claimed
from sb3_mirl.envs import AtariVecEnv
from sb3_mirl.evaluation import evaluate
from sb3_mirl.plots import plot_prior_history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Breakout")
    parser.add_argument("--timesteps", type=lambda text: int(float(text)), default=45_000, help="of 4 frames, such as 2e6")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--eval-episodes", type=int, default=10, help="games of the reloaded model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/quickstart"))
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
        model = MIRL("CnnPolicy", env, seed=args.seed, tensorboard_log=str(args.out / "tensorboard"))
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
    evaluation = AtariVecEnv(args.game, min(args.n_envs, args.eval_episodes), seed=args.seed + 1000, training=False)
    scores, _ = evaluate(loaded, evaluation, args.eval_episodes, seed=args.seed)
    chance, _ = evaluate(loaded, evaluation, args.eval_episodes, epsilon=1.0, exploration="uniform", seed=args.seed)
    evaluation.close()

    with np.load(history) as data:
        figure = plot_prior_history(data, title=f"MIRL on {args.game}")
    figure.savefig(args.out / "prior_and_beta.png", dpi=150)
    plt.close(figure)

    print(f"\nScore of {len(scores)} games of the reloaded model, epsilon 0.05: {scores.mean():.1f} ± {scores.std():.1f}")
    print(f"Random play: {chance.mean():.1f} ± {chance.std():.1f}")
    print(f"Model            {args.out / 'model.zip'}")
    print(f"Prior's history  {history}")
    print(f"Figure           {args.out / 'prior_and_beta.png'}")
    print(f"TensorBoard      tensorboard --logdir {args.out / 'tensorboard'}")


if __name__ == "__main__":
    main()
