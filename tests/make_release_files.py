"""
Files as this release writes them, which later releases must read (tests/test_compatibility.py).

    python -m tests.make_release_files        # at each release; writes tests/data/<version>/
"""

import json
from pathlib import Path

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.save_util import save_to_pkl

from sb3_mirl import MIRL, SoftDQN, __version__
from sb3_mirl.replay import FrameReplayBuffer
from sb3_mirl.tabular import TabularMIRL

OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
SAMPLED = 16


def expectations(model: SoftDQN) -> dict[str, object]:
    """What a loaded model is compared by."""
    with th.no_grad():
        q = model.q_net(th.from_numpy(OBSERVATIONS))
    actions, _ = model.predict(OBSERVATIONS, deterministic=True)
    return {
        "beta": model.beta,
        "prior": model.prior.tolist(),
        "q": q.tolist(),
        "actions": actions.tolist(),
        "num_timesteps": model.num_timesteps,
        "exploration_rate": model.exploration_rate,
    }


def drawn(buffer: FrameReplayBuffer) -> dict[str, list[float]]:
    """Sums over the frames, and the other columns, of a seeded minibatch."""
    np.random.seed(0)
    data = buffer.sample(SAMPLED)
    return {
        "observations": data.observations.long().sum((1, 2, 3)).tolist(),
        "next_observations": data.next_observations.long().sum((1, 2, 3)).tolist(),
        "rewards": data.rewards[:, 0].tolist(),
        "actions": data.actions[:, 0].tolist(),
    }


def _filled_buffer() -> FrameReplayBuffer:
    buffer = FrameReplayBuffer(24, spaces.Box(0, 255, (4, 8, 8), np.uint8), spaces.Discrete(3), "cpu", n_envs=2)
    rng = np.random.default_rng(0)
    stack = np.zeros((2, 4, 8, 8), np.uint8)
    for step in range(16):
        following = np.concatenate([stack[:, 1:], rng.integers(0, 256, (2, 1, 8, 8), dtype=np.uint8)], axis=1)
        buffer.add(stack, following, rng.integers(0, 3, (2, 1)), rng.normal(size=2), np.full(2, step % 5 == 4), [{}] * 2)
        stack = following * np.uint8(step % 5 != 4)
    return buffer


def main() -> None:
    folder = Path(__file__).parent / "data" / __version__
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, object] = {}
    for name, cls in {"mirl": MIRL, "softdqn": SoftDQN}.items():
        arguments = dict(prior_lr=0.01) if cls is MIRL else dict(exploration="marginal")
        model = cls(
            "MlpPolicy", "CartPole-v1", learning_starts=50, buffer_size=500, learning_rate=1e-3, beta_init=1.0, seed=0,
            policy_kwargs=dict(net_arch=[16]), device="cpu", **arguments,
        ).learn(500)  # fmt: skip
        model.save(folder / name)
        expected[name] = expectations(model)
    agent = TabularMIRL("MirlSquare-v0", seed=0).learn(20_000)
    agent.save(folder / "tabular.zip")
    expected["tabular"] = {"q": agent.q.tolist(), "prior": agent.prior.tolist(), "num_timesteps": agent.num_timesteps}
    buffer = _filled_buffer()
    save_to_pkl(folder / "frame_replay_buffer.pkl", buffer)
    expected["frame_replay_buffer"] = drawn(buffer)
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
