"""Other flavours of a game (Machado et al. 2018): modes and difficulties that ALE's C++ vector environment cannot be given."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ale_py import Action, ALEInterface, LoggerMode

from sb3_mirl.common.arguments import check_choice


def is_default(rom_path: Path, mode: int | None, difficulty: int | None) -> bool:
    """
    Return whether a mode and a difficulty are those that the game has by itself; None is its own.

    :raises ValueError: if the game does not have that mode or difficulty
    """
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(rom_path)
    default = ale.cloneState()
    check_choice("mode", mode, (None, *ale.getAvailableModes()))
    check_choice("difficulty", difficulty, (None, *ale.getAvailableDifficulties()))
    return mode in (None, default.getCurrentMode()) and difficulty in (None, default.getDifficulty())


class FlavourVector:
    """
    Play one flavour of a game through ALE's interface for single games, with the methods of ``ALEVectorInterface``.

    Frame for frame what the C++ class does, but for the number of no-ops, which numpy draws. The games are played one after
    the other, without threads.

    :param num_envs: number of games
    :param options: ``frame_skip``, ``stack_num``, ``img_height``, ``img_width``, ``grayscale``, ``maxpool``, ``noop_max``,
        ``use_fire_reset``, ``repeat_action_probability`` and ``full_action_space`` of ``ALEVectorInterface``
    """

    def __init__(self, rom_path: Path, num_envs: int, mode: int | None, difficulty: int | None, **options: Any) -> None:
        self._games = [_Game(rom_path, mode, difficulty, **options) for _ in range(num_envs)]

    def get_action_set(self) -> list[Any]:
        """Return ALE's actions."""
        return self._games[0].actions

    def reset(self, env_ids: list[int], seeds: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """
        Start the games ``env_ids`` anew, each with a seed; with a negative one, its stream of random numbers continues.

        :return: the stacks of all games, and their ``lives``
        """
        for i, seed in zip(env_ids, seeds, strict=True):
            self._games[i].reset(seed)
        return self._stacks(), self._lives()

    def send(self, actions: list[int], paddle_strengths: list[float]) -> None:
        """Choose an action for each game by its index, and how far it turns a paddle."""
        self._next = list(zip(actions, paddle_strengths, strict=True))

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Play the step; games that are over start again at once, and their last stacks are in ``final_obs``."""
        rewards = np.array([game.step(*action) for game, action in zip(self._games, self._next, strict=True)])
        over = np.array([game.ale.game_over() for game in self._games])
        final = {"final_obs": self._stacks()} if over.any() else {}
        for i in over.nonzero()[0]:
            self._games[i].reset(-1)
        return self._stacks(), rewards, over, np.zeros_like(over), self._lives() | final

    def _stacks(self) -> np.ndarray:
        return np.stack([game.stack for game in self._games])

    def _lives(self) -> dict[str, np.ndarray]:
        return {"lives": np.array([game.ale.lives() for game in self._games], dtype=np.int32)}


class _Game:
    """One game: ``PreprocessedEnv`` of ALE's C++ sources."""

    def __init__(self, rom_path: Path, mode: int | None, difficulty: int | None, **options: Any) -> None:
        self.ale, self.rom_path, self.options = ALEInterface(), rom_path, options
        self.ale.setFloat("repeat_action_probability", options["repeat_action_probability"])
        self.ale.loadROM(rom_path)
        self.flavour = [(self.ale.setMode, mode), (self.ale.setDifficulty, difficulty)]
        self.actions = self.ale.getLegalActionSet() if options["full_action_space"] else self.ale.getMinimalActionSet()
        self.fire = [action for action in self.actions if action.name == "FIRE" and options["use_fire_reset"]]
        depth = () if options["grayscale"] else (3,)
        self.screens = np.zeros((2, *self.ale.getScreenDims(), *depth), dtype=np.uint8)  # the last two of a step
        self.stack = np.zeros((options["stack_num"], options["img_height"], options["img_width"], *depth), dtype=np.uint8)

    def reset(self, seed: int) -> None:
        if seed >= 0:
            self.rng = np.random.default_rng(seed)
            self.ale.setInt("random_seed", seed)
            self.ale.loadROM(self.rom_path)
            for choose, value in self.flavour:
                if value is not None:
                    choose(value)
        self.ale.reset_game()
        noops = int(self.rng.integers(self.options["noop_max"])) - len(self.fire)
        for action in [*self.fire, *[Action.NOOP] * noops]:
            self.ale.act(action)
            if self.ale.game_over():
                self.ale.reset_game()
        self.stack[:] = self.screens[:] = 0
        self._see(self.screens[0])
        self._push()

    def step(self, action: int, paddle_strength: float) -> int:
        reward = 0
        for left in reversed(range(self.options["frame_skip"])):
            reward += self.ale.act(self.actions[action], paddle_strength)
            if self.ale.game_over():
                break
            if left < 2:
                self._see(self.screens[left])
        self._push()
        return reward

    def _see(self, screen: np.ndarray) -> None:
        (self.ale.getScreenGrayscale if self.options["grayscale"] else self.ale.getScreenRGB)(screen)

    def _push(self) -> None:
        if self.options["maxpool"]:
            self.screens.max(axis=0, out=self.screens[0])
        self.stack[:-1] = self.stack[1:].copy()
        size = self.stack.shape[2], self.stack.shape[1]
        self.stack[-1] = cv2.resize(self.screens[0], size, interpolation=cv2.INTER_AREA)
