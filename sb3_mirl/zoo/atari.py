"""ALE's C++ vector environment in the zoo's configurations."""

from functools import partial
from typing import Any, cast

from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from sb3_mirl.envs import AtariVecEnv

FRAMES = 4
PASSED_ON = ("mode", "difficulty", "repeat_action_probability", "full_action_space")


def atari_vec_env(env: VecEnv) -> VecEnv:
    """
    Put :class:`~sb3_mirl.envs.AtariVecEnv` in place of unwrapped Atari environments, with their game, number, seed, mode,
    difficulty, stickiness, action set, length and monitor file.

    This is the zoo's ``vec_env_wrapper: sb3_mirl.zoo.atari.atari_vec_env``, for a configuration without ``env_wrapper`` and
    ``frame_stack``. It is saved with the agent, so every command of the zoo builds the same environment
    (``ExperimentManager.default_vec_env_cls``, the zoo's other hook, reaches neither ``record_video`` nor ``push_to_hub``).
    Environments that are to be watched stay the zoo's, under the wrappers that give the same observations: the C++ side
    keeps no whole screen.

    :param env: what the zoo built from an Atari id
    :return: observations (n_envs, 4, 84, 84), or (n_envs, 84, 84, 4) to watch
    :raises ValueError: if the environments are not Atari's, or have options for which there is no place
    """
    spec = cast(EnvSpec, env.get_attr("spec")[0])
    problem = _problem(spec)
    if problem is not None:
        env.close()
        raise ValueError(f"atari_vec_env {problem}: choose another configuration.")
    if isinstance(env, DummyVecEnv) and env.render_mode is not None:
        return _to_render(env, spec)
    options = {key: spec.kwargs[key] for key in PASSED_ON if key in spec.kwargs}
    if frames := spec.kwargs.get("max_num_frames_per_episode"):
        options["max_episode_steps"] = max(frames // FRAMES, 1)
    # the file in which the first environment's Monitor has begun a record
    writer = env.envs[0].get_wrapper_attr("results_writer") if isinstance(env, DummyVecEnv) else None
    monitor_file = None if writer is None else str(writer.file_handler.name)
    env.close()
    return AtariVecEnv(spec.id, env.num_envs, env._seeds[0], monitor_file=monitor_file, **options)


def _problem(spec: EnvSpec) -> str | None:
    if "AtariEnv" not in str(spec.entry_point):
        return f"plays Atari games and not {spec.id}"
    options: dict[str, Any] = spec.kwargs
    frame_skip = options.get("frameskip", FRAMES)
    if not isinstance(frame_skip, int) or FRAMES % frame_skip:
        return f"plays {FRAMES} frames a step, which frameskip={frame_skip} of {spec.id} does not divide"
    if options.get("obs_type", "rgb") == "ram" or options.get("continuous") or options.get("sound_obs"):
        return f"has images and discrete actions, and not obs_type='ram', continuous or sound_obs ({spec.id})"
    return None


def _to_render(env: DummyVecEnv, spec: EnvSpec) -> VecEnv:
    frame_skip = FRAMES // spec.kwargs.get("frameskip", FRAMES)
    wrapped = DummyVecEnv([partial(AtariWrapper, game, frame_skip=frame_skip) for game in env.envs])
    wrapped.seed(env._seeds[0])
    return VecFrameStack(wrapped, FRAMES)
