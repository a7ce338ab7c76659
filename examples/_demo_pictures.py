"""The pictures of demo.py: agents at play, and how they learned."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_mirl import plots
from sb3_mirl.common.files import write_whole
from sb3_mirl.envs.minatar import make_minatar

CELL, GAP, HEAD = 12, 14, 24  # pixels
FRAME_MS = 60
STRIDE = 3  # steps of the game between two pictures: as often as the player of freeway can move
ROAD = "#2b2e33"
COLOURS = ("#F0E442", "#FFFFFF", *plots.ACTION_COLOURS[:-1])  # of MinAtar's channels; in freeway the player, cars, speeds


def film(game: str, models: Mapping[str, BaseAlgorithm | None], path: Path, n_steps: int, seed: int = 1) -> None:
    """
    Write a GIF of agents side by side, greedy, with their scores so far.

    :param game: one of MinAtar's
    :param models: by the name to be shown; None plays at random
    :param path: of the GIF
    :param n_steps: length, in steps of the game
    :param seed: of the games
    """
    games = [play(game, model, n_steps, seed) for model in models.values()]
    font = ImageFont.truetype(findfont("DejaVu Sans"), 14)
    width, height = games[0][0][0].shape[1::-1]
    pictures = []
    for step in range(0, n_steps, STRIDE):
        picture = Image.new("RGB", (len(games) * (width + GAP) - GAP, HEAD + height), "white")
        for column, (name, (frames, scores)) in enumerate(zip(models, games, strict=True)):
            left = column * (width + GAP)
            picture.paste(Image.fromarray(frames[step]), (left, HEAD))
            ImageDraw.Draw(picture).text((left + width / 2, HEAD / 2), f"{name}: {scores[step]:g}", "black", font, anchor="mm")
        pictures.append(picture.quantize(32, dither=Image.Dither.NONE))
    write_whole(
        path, "gif",
        partial(pictures[0].save, format="GIF", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0),
    )  # fmt: skip


def play(game: str, model: BaseAlgorithm | None, n_steps: int, seed: int) -> tuple[list[np.ndarray], list[float]]:
    """Return what an agent sees, step by step, each (10 CELL, 10 CELL, 3) uint8, and its score until then."""
    env = make_minatar(game)
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    frames, scores, score = [], [], 0.0
    for _ in range(n_steps):
        frames.append(coloured(observation))
        scores.append(score)
        action = env.action_space.sample() if model is None else int(model.predict(observation, deterministic=True)[0])
        observation, reward, over, _, _ = env.step(action)
        score += float(reward)
        if over:
            observation, _ = env.reset()
    return frames, scores


def coloured(observation: np.ndarray) -> np.ndarray:
    """(10, 10, C) bool -> (10 CELL, 10 CELL, 3) uint8, the first channels in front."""
    palette = np.array([to_rgb(colour) for colour in (ROAD, *COLOURS)])
    cells = np.where(observation.any(axis=2), observation.argmax(axis=2) + 1, 0)
    picture = (255 * palette[cells]).astype(np.uint8)
    return picture.repeat(CELL, axis=0).repeat(CELL, axis=1)


def course(snapshots: pd.DataFrame, chance: float, history: Mapping[str, Any], path: Path) -> None:
    """
    Draw the agents' scores while they learn, and MIRL's prior.

    :param snapshots: agent, timesteps and score of one seed
    :param chance: score of random play
    :param history: of :class:`~sb3_mirl.PriorCallback`
    :param path: of the picture
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for agent, run in snapshots.groupby("agent"):
        steps, scores = ([0, *run["timesteps"]], [chance, *run["score"]])
        left.plot(steps, scores, "o-", color=plots.COLOURS[str(agent)], label=plots.LABELS[str(agent)], markersize=4)
    left.axhline(chance, color="0.5", linewidth=0.8, linestyle=":", label="random play")
    left.set_title("Streets crossed per game", loc="left")
    left.legend(frameon=False)
    left.set_ylim(bottom=0)
    plots.step_axis(left, float(snapshots["timesteps"].max()))
    plots.prior_curves(right, history).set_title("MIRL's prior ρ(a)", loc="left")
    write_whole(path, "png", partial(figure.savefig, format="png", dpi=120))
    plt.close(figure)
