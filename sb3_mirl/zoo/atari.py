"""ALE's C++ vector environment in the zoo's configurations."""

from functools import partial
from typing import cast

from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from sb3_mirl.envs import AtariVecEnv

FRAMES = 4


def atari_vec_env(env: VecEnv) -> VecEnv:
    """
    The zoo's ``vec_env_wrapper: sb3_mirl.zoo.atari.atari_vec_env``: :class:`~sb3_mirl.envs.AtariVecEnv` in place of
    unwrapped Atari environments, with their game, number, seed, stickiness, action set and monitor file.

    A configuration uses it without ``env_wrapper`` and ``frame_stack``. It is saved with the agent, so every command of
    the zoo builds the same environment (``ExperimentManager.default_vec_env_cls``, the zoo's other hook, reaches neither
    ``record_video`` nor ``push_to_hub``). Environments that are to be watched stay the zoo's, under the wrappers that
    give the same observations: the C++ side keeps no colour screen.

    :param env: what the zoo built from an Atari id
    :return: observations (n_envs, 4, 84, 84), or (n_envs, 84, 84, 4) to watch
    :raises ValueError: if the environments are not Atari's
    """
    spec = cast(EnvSpec, env.get_attr("spec")[0])
    if "AtariEnv" not in str(spec.entry_point):
        env.close()
        raise ValueError(f"atari_vec_env plays Atari games and not {spec.id}: choose another configuration.")
    if isinstance(env, DummyVecEnv) and env.render_mode is not None:
        return _watched(env, spec)
    options = {key: spec.kwargs[key] for key in ("repeat_action_probability", "full_action_space") if key in spec.kwargs}
    n_envs, seed, monitor_file = env.num_envs, env._seeds[0], _monitor_file(env)
    env.close()
    return AtariVecEnv(spec.id, n_envs, seed, monitor_file=monitor_file, **options)


def _watched(env: DummyVecEnv, spec: EnvSpec) -> VecEnv:
    frame_skip = max(1, FRAMES // spec.kwargs.get("frameskip", 1))
    wrapped = DummyVecEnv([partial(AtariWrapper, game, frame_skip=frame_skip) for game in env.envs])
    wrapped.seed(env._seeds[0])
    return VecFrameStack(wrapped, FRAMES)


def _monitor_file(env: VecEnv) -> str | None:
    """The file in which the first environment's Monitor has begun a record."""
    writer = env.envs[0].get_wrapper_attr("results_writer") if isinstance(env, DummyVecEnv) else None
    return None if writer is None else str(writer.file_handler.name)
