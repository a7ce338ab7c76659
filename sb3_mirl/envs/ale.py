"""What ALE must be told: ROM ids for every spelling of a game, seeds, threads."""

import difflib
import re
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from sb3_mirl.common.workers import usable_cpus

try:
    from ale_py import ALEVectorInterface, roms
except ImportError as error:
    raise ImportError(
        f"AtariVecEnv needs ale-py 0.12 or newer with its vector interface ({error}): pip install 'sb3-mirl[atari]'"
    ) from error

SCREEN_SIZE = 84
CONTINUE_RNG = -1
"""In place of a seed: a reset that goes on with the random stream of the games before."""
# AtariVecEnv itself ends long episodes: ALE leaves the frame on which its own cap falls half-written. Not 2^31 - 1,
# to which the C++ side adds 1.
_NO_FRAME_CAP = 2**30
# two-player cartridges: ALE ships these ROMs but no single-player game for them
_TWO_PLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})
_ID_SUFFIX = re.compile(r"(NoFrameskip|Deterministic)?(-v\d+)?$", re.IGNORECASE)


def rom_id(game: str) -> str:
    """ALE's ROM id of a game.

    The name only selects the game: the frame skip and the action-repeat probability that a gymnasium id stands for
    (``NoFrameskip``, ``-v5``) are arguments of :class:`~sb3_mirl.envs.AtariVecEnv`.

    :param game: ``"SpaceInvaders"``, ``"SpaceInvadersNoFrameskip-v4"``, ``"ALE/SpaceInvaders-v5"``, ``"space_invaders"``
        or ``"space invaders"``; upper and lower case do not matter.
    :return: the snake_case id, for example ``"space_invaders"``.
    :raises TypeError: if ``game`` is not a string.
    :raises ValueError: if ALE has no such single-player game; the message suggests the nearest names.
    """
    if not isinstance(game, str):
        raise TypeError(f"game must be a string such as 'Breakout', got {game!r} of type {type(game).__name__}")
    key = _squash(_ID_SUFFIX.sub("", re.sub(r"^ALE/", "", game.strip(), flags=re.IGNORECASE)))
    known = _rom_ids()
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(repr(_class_name(known[name])) for name in near)}? " if near else ""
        raise ValueError(f"Unknown Atari game {game!r}. {hint}ale_py.roms.get_all_rom_ids() lists the games.")
    return known[key]


def gym_spec(rom: str) -> EnvSpec | None:
    """Gymnasium's spec of the game without frame skip and sticky actions, or of its v5 id where that is all there is.

    :param rom: ROM id, as from :func:`rom_id`.
    :return: the spec of ``"<Game>NoFrameskip-v4"`` or ``"ALE/<Game>-v5"``; None if neither is registered.
    """
    name = _class_name(rom)
    return gym.registry.get(f"{name}NoFrameskip-v4") or gym.registry.get(f"ALE/{name}-v5")


def make_vector(rom: str, n_envs: int, *, noop_max: int, num_threads: int, **options: Any) -> Any:
    """ALE's C++ vector environment: grayscale 84x84 frames, unclipped rewards, done only at game over, reset at once.

    :param rom: ROM id, as from :func:`rom_id`.
    :param noop_max: largest number of frames before the first observation, FIRE included.
    :param num_threads: see :func:`thread_count`.
    :param options: further arguments of ``ale_py.ALEVectorInterface``.
    :return: an object with ``reset(env_ids, seeds)``, ``send(actions, paddle_strengths)`` and ``recv()``.
    """
    rom_path = roms.get_rom_path(rom)
    assert rom_path is not None, f"ale_py ships no file for the ROM {rom!r}"
    return ALEVectorInterface(
        rom_path=rom_path,
        num_envs=n_envs,
        img_height=SCREEN_SIZE,
        img_width=SCREEN_SIZE,
        # the C++ side draws from 0..noop_max - 1
        noop_max=noop_max + 1,
        # would reset the game at each life
        episodic_life=False,
        life_loss_info=False,
        # would lose the return
        reward_clipping=False,
        max_episode_steps=_NO_FRAME_CAP,
        num_threads=num_threads,
        autoreset_mode="SameStep",
        **options,
    )


def ale_seed(seed: int | None) -> int:
    """The seed that gymnasium's AtariEnv passes to ALE for ``reset(seed=seed)``, less its sign bit; None goes on unseeded."""
    if seed is None:
        return CONTINUE_RNG
    if seed < 0:
        raise ValueError(f"seeds must be >= 0, got {seed}")
    return int(np.random.SeedSequence(seed).generate_state(2)[1]) & 0x7FFFFFFF


def at_least(least: int, name: str, value: int) -> int:
    """``value`` as an int, or a ValueError that names the argument."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def thread_count(n_envs: int, num_threads: int | None) -> int:
    """The number of C++ threads: ``num_threads``, or one per CPU that this process may use; at most ``n_envs``."""
    if num_threads is None:
        # ALE would ask std::thread::hardware_concurrency(), which counts the machine's CPUs, not those this process may use
        num_threads = usable_cpus()
    # each thread spins before it sleeps, so more threads than envs only take CPU time from the learner;
    # and the wake-up calls that end them share a ring of 2 n_envs entries with the actions
    return min(at_least(1, "num_threads", num_threads), n_envs)


@cache
def _rom_ids() -> dict[str, str]:
    return {_squash(rom): rom for rom in roms.get_all_rom_ids() if rom not in _TWO_PLAYER_ONLY}


def _class_name(rom: str) -> str:
    return rom.title().replace("_", "")


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
