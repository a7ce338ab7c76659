"""
Packs an agent trained by ``python -m sb3_mirl train`` for the Hugging Face Hub and uploads it.

    python examples/push_to_hub.py --algo mirl --env CartPole-v1 -f logs --repo-id me/mirl-CartPole-v1 --dry-run

The folder (``--out``) holds what the zoo's ``load_from_hub`` expects, a model card with the agent's score, beta and prior,
and a video. ``--dry-run`` stops there and needs no network. An upload needs ``hf auth login`` before.
"""

import argparse
import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_sb3 import EnvironmentName, ModelName
from rl_zoo3 import ALGOS, create_test_env, get_saved_hyperparams
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_model_path
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecVideoRecorder

import sb3_mirl.zoo  # noqa: F401  registers the algorithms
from sb3_mirl import SoftDQN

CARD = """
# **{name}** playing **{env_id}**

Trained with [sb3_mirl](https://pypi.org/project/sb3-mirl/), {what}, on
[Stable-Baselines3](https://github.com/DLR-RM/stable-baselines3) and its
[RL Zoo](https://github.com/DLR-RM/rl-baselines3-zoo).

| return of {episodes} episodes | inverse temperature β | action prior ρ |
|---|---|---|
| {mean:.2f} ± {std:.2f} | {beta:.4g} | {prior} |

## Usage

```bash
pip install "sb3-mirl[zoo]"
python -m sb3_mirl load_from_hub --algo {algo} --env {env_id} -orga {organization} -name {repo} -f logs
python -m sb3_mirl enjoy --algo {algo} --env {env_id} -f logs
```

## Training

```bash
python -m sb3_mirl train --algo {algo} --env {env_id}
```

with these hyperparameters:

```yaml
{hyperparams}```
"""
WHAT = {"mirl": "Q-learning with mutual-information regularisation", "softdqn": "soft Q-learning with a uniform prior"}


@dataclass
class TrainedAgent:
    """An agent in the zoo's log folder."""

    algo: str
    env_name: EnvironmentName
    model: SoftDQN
    log_path: Path
    hyperparams: dict[str, Any]
    env_kwargs: dict[str, Any]
    stats_path: str | None

    def make_env(self, seed: int) -> VecEnv:
        """The environment it was trained in, drawing images."""
        return create_test_env(
            self.env_name.gym_id,
            stats_path=self.stats_path,
            seed=seed,
            should_render=False,
            hyperparams=dict(self.hyperparams),
            env_kwargs={**self.env_kwargs, "render_mode": "rgb_array"},
        )

    @property
    def deterministic(self) -> bool:
        """The zoo's rule for evaluation: no random actions but in Atari, whose games repeat themselves."""
        return not ExperimentManager.is_atari(self.env_name.gym_id)


def load_agent(args: argparse.Namespace) -> TrainedAgent:
    """The agent that the zoo's ``enjoy`` would play with the same arguments."""
    env_name = EnvironmentName(args.env)
    _, model_path, log_path = get_model_path(args.exp_id, args.folder, args.algo, env_name, args.load_best)
    settings = Path(log_path, env_name)
    hyperparams, stats_path = get_saved_hyperparams(str(settings), test_mode=True)
    env_kwargs = dict(hyperparams.pop("env_kwargs", None) or {})
    env_kwargs.update(yaml.load((settings / "args.yml").read_text(), yaml.UnsafeLoader)["env_kwargs"] or {})
    model = ALGOS[args.algo].load(model_path, seed=args.seed)
    assert isinstance(model, SoftDQN)
    return TrainedAgent(args.algo, env_name, model, Path(log_path), hyperparams, env_kwargs, stats_path)


def write_package(agent: TrainedAgent, folder: Path, args: argparse.Namespace) -> None:
    """
    Everything that is uploaded.

    :param agent: the agent
    :param folder: is emptied first
    :param args: number of episodes, length of the video, seed, repository
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_training(agent, folder)
    env = agent.make_env(args.seed)
    returns = evaluate(agent, env, args.episodes)
    if args.video_steps > 0:
        record(agent, env, folder, args.video_steps)
    env.close()
    score = {"mean_reward": float(np.mean(returns)), "std_reward": float(np.std(returns)), "n_eval_episodes": len(returns)}
    (folder / "results.json").write_text(json.dumps({**score, "is_deterministic": agent.deterministic}, indent=2))
    model_card(agent, score, args.repo_id).save(folder / "README.md")


def evaluate(agent: TrainedAgent, env: VecEnv, episodes: int) -> list[float]:
    """Returns of whole episodes, unclipped."""
    returns, _ = evaluate_policy(agent.model, env, episodes, deterministic=agent.deterministic, return_episode_rewards=True)
    assert isinstance(returns, list)
    return returns


def copy_training(agent: TrainedAgent, folder: Path) -> None:
    """The model, its settings and its learning curves, under the names that the zoo's ``load_from_hub`` asks for."""
    agent.model.save(folder / ModelName(agent.algo, agent.env_name))
    for name in ("args.yml", "config.yml"):
        shutil.copy(agent.log_path / agent.env_name / name, folder / name)
    (folder / "env_kwargs.yml").write_text(yaml.dump(agent.env_kwargs))
    statistics = agent.log_path / agent.env_name / "vecnormalize.pkl"
    if statistics.is_file():
        shutil.copy(statistics, folder / "vec_normalize.pkl")
    with zipfile.ZipFile(folder / "train_eval_metrics.zip", "w") as archive:
        for path in sorted([*agent.log_path.glob("evaluations.npz"), *agent.log_path.glob("*.csv")]):
            archive.write(path, path.name)


def record(agent: TrainedAgent, env: VecEnv, folder: Path, steps: int) -> None:
    """``replay.mp4`` of the first ``steps`` steps."""
    recorder = VecVideoRecorder(env, str(folder), lambda step: step == 0, video_length=steps, name_prefix="replay")
    observations = recorder.reset()
    for _ in range(steps + 1):
        actions, _ = agent.model.predict(observations, deterministic=agent.deterministic)  # type: ignore[arg-type]
        observations, *_ = recorder.step(actions)
    (video,) = folder.glob("replay*.mp4")
    video.rename(folder / "replay.mp4")


def model_card(agent: TrainedAgent, score: dict[str, Any], repo_id: str) -> ModelCard:
    """The README of the repository, with the metadata from which the Hub and the zoo read algorithm, task and score."""
    name, env_id = type(agent.model).__name__, agent.env_name.gym_id
    mean, std = score["mean_reward"], score["std_reward"]
    data = ModelCardData(
        library_name="stable-baselines3",
        tags=[env_id, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3", "sb3-mirl"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="reinforcement-learning",
                dataset_type=env_id,
                dataset_name=env_id,
                metric_type="mean_reward",
                metric_value=f"{mean:.2f} +/- {std:.2f}",
            )
        ],
    )
    organization, repo = repo_id.split("/")
    text = CARD.format(
        name=name,
        env_id=env_id,
        algo=agent.algo,
        what=WHAT[agent.algo],
        mean=mean,
        std=std,
        episodes=score["n_eval_episodes"],
        beta=agent.model.beta,
        prior=" ".join(f"{probability:.3f}" for probability in agent.model.prior),
        organization=organization,
        repo=repo,
        hyperparams=yaml.dump({key: value for key, value in agent.hyperparams.items() if key != "normalize_kwargs"}),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def upload(folder: Path, repo_id: str) -> str:
    """
    :return: address of the repository
    """
    api = HfApi()
    url = api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Agent trained with sb3_mirl")
    return str(url)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=sorted(WHAT), default="mirl")
    parser.add_argument("--env", required=True, help="environment id")
    parser.add_argument("--repo-id", required=True, help="organization/name")
    parser.add_argument("-f", "--folder", default="logs", help="the zoo's log folder")
    parser.add_argument("--exp-id", type=int, default=0, help="the zoo's number of the run, 0 for the latest")
    parser.add_argument("--load-best", action="store_true", help="the best agent of the evaluations, not the last")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of the evaluation")
    parser.add_argument("--video-steps", type=int, default=1000, help="length of the video, 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("hub"))
    parser.add_argument("--dry-run", action="store_true", help="write the folder, upload nothing")
    args = parser.parse_args(argv)
    if args.repo_id.count("/") != 1:
        parser.error(f"--repo-id {args.repo_id}: expected organization/name")
    return args


def main(argv: list[str] | None = None) -> Path:
    """
    :param argv: arguments, by default those of the command line
    :return: the folder that is, or would be, uploaded
    """
    args = parse_args(argv)
    folder: Path = args.out / args.repo_id.split("/")[1]
    write_package(load_agent(args), folder, args)
    if args.dry_run:
        print(f"{folder} is what would be uploaded to {args.repo_id}")
    else:
        print(f"Uploaded to {upload(folder, args.repo_id)}")
    return folder


if __name__ == "__main__":
    main()
