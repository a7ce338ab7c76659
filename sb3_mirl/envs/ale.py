"""What ALE must be given: ROM ids for every spelling of a game, seeds, threads, flavours of a game."""

import difflib
import math
import re
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.common.extras import how_to_install
from sb3_mirl.common.workers import usable_cpus

try:
    from ale_py import ALEVectorInterface, roms
except ImportError as error:
    raise ImportError(
        f"AtariVecEnv needs ale-py 0.12.1 or newer with its vector interface ({error}). {how_to_install('atari')}"
    ) from error

CONTINUE_RNG = -1
"""In place of a seed: continue the random stream of the games before."""
SMALLEST = 36
"""Height and width of the smallest images that NatureCNN, the network of ``CnnPolicy``, takes."""
# AtariVecEnv itself ends long episodes: ALE leaves the frame on which its own cap falls half-written. Not 2^31 - 1,
# to which the C++ side adds 1.
_NO_FRAME_CAP = 2**30
# two-player cartridges: ALE ships these ROMs but no single-player game for them
_TWO_PLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})
_ID_SUFFIX = re.compile(r"(NoFrameskip|Deterministic)?(-v\d+)?$", re.IGNORECASE)


def rom_id(game: str) -> str:
    """
    Return ALE's ROM id of a game.

    The name only selects the game: the frame skip and the action-repeat probability that a gymnasium id stands for
    (``NoFrameskip``, ``-v5``) are arguments of :class:`~sb3_mirl.envs.AtariVecEnv`.

    :param game: ``"SpaceInvaders"``, ``"SpaceInvadersNoFrameskip-v4"``, ``"ALE/SpaceInvaders-v5"``, ``"space_invaders"``
        or ``"space invaders"``; upper and lower case do not matter
    :return: the snake_case id, for example ``"space_invaders"``
    :raises TypeError: if ``game`` is not a string
    :raises ValueError: if ALE has no such single-player game; the message suggests the nearest names
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


def gym_spec(rom: str, mode: int | None, difficulty: int | None) -> EnvSpec | None:
    """Return gymnasium's spec of ``"<Game>NoFrameskip-v4"``, or else of ``"ALE/<Game>-v5"``; None if neither is registered."""
    name = _class_name(rom)
    spec = gym.registry.get(f"{name}NoFrameskip-v4") or gym.registry.get(f"ALE/{name}-v5")
    flavour = {key: value for key, value in (("mode", mode), ("difficulty", difficulty)) if value is not None}
    return replace(spec, kwargs=spec.kwargs | flavour) if spec and flavour else spec


def make_vector(
    rom: str,
    n_envs: int,
    *,
    noop_max: int,
    mode: int | None,
    difficulty: int | None,
    num_threads: int,
    thread_affinity_offset: int | None,
    **options: Any,
) -> Any:
    """
    Make ALE's C++ vector environment, or its stand-in for other flavours of a game, which the C++ class cannot be given.

    Rewards are unclipped; done is game over, and games that are over start again at once.

    :param noop_max: largest number of frames before the first observation, FIRE included
    :param options: further arguments of ``ale_py.ALEVectorInterface``
    :return: an object with ``reset(env_ids, seeds)``, ``send(actions, paddle_strengths)`` and ``recv()``
    :raises ValueError: for a value out of range, or if the game does not have that mode or difficulty
    """
    check_range("repeat_action_probability", options["repeat_action_probability"], 0, 1)
    for name in ("grayscale", "maxpool", "use_fire_reset", "full_action_space"):
        check_choice(name, options[name], (True, False))
        options[name] = bool(options[name])
    # drawn from 0..noop_max - 1
    options["noop_max"] = at_least(0, "noop_max", noop_max) + 1
    if thread_affinity_offset is not None:
        options["thread_affinity_offset"] = at_least(0, "thread_affinity_offset", thread_affinity_offset)
    rom_path = roms.get_rom_path(rom)
    assert rom_path is not None, f"ale_py ships no file for the ROM {rom!r}"
    if mode is not None or difficulty is not None:
        # needs OpenCV
        from sb3_mirl.envs.flavours import FlavourVector, is_default

        if not is_default(rom_path, mode, difficulty):
            return FlavourVector(rom_path, n_envs, mode, difficulty, **options)
    return ALEVectorInterface(
        rom_path=rom_path,
        num_envs=n_envs,
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


def image_shape(frame_stack: int, grayscale: bool, img_height: int, img_width: int) -> tuple[int, int, int]:
    """
    Return the shape of channels-first observations.

    :raises ValueError: if images are smaller than ``CnnPolicy`` can take, or have more channels than pixels in a row
    """
    channels = frame_stack if grayscale else 3 * frame_stack
    height, width = at_least(SMALLEST, "img_height", img_height), at_least(SMALLEST, "img_width", img_width)
    if channels > min(height, width):
        raise ValueError(
            f"frame_stack={frame_stack} makes {channels} channels of {height}x{width} pixels, and SB3 takes the smallest axis "
            "for the channels: lower frame_stack, or raise img_height and img_width"
        )
    return channels, height, width


def ale_seed(seed: int | None) -> int:
    """
    Return the seed that gymnasium's AtariEnv gives to ALE for ``reset(seed=seed)``, without its sign bit; for None
    :data:`CONTINUE_RNG`.

    :raises ValueError: if it is negative
    """
    if seed is None:
        return CONTINUE_RNG
    if seed < 0:
        raise ValueError(f"seeds must be >= 0, got {seed}")
    return int(np.random.SeedSequence(seed).generate_state(2)[1]) & 0x7FFFFFFF


def at_least(least: int, name: str, value: int) -> int:
    """
    Return ``value`` as an int.

    :raises ValueError: naming the argument, if it is not an integer of at least ``least``
    """
    check_range(name, value, least, math.inf, whole=True)
    return int(value)


def thread_count(n_envs: int, num_threads: int | None) -> int:
    """Return the number of C++ threads: ``num_threads``, or one per CPU that this process may use; at most ``n_envs``."""
    if num_threads is None:
        # ALE would count the machine's CPUs, not those this process may use
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
