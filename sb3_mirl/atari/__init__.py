"""The paper's Atari experiment: human-normalised scores, and the evaluation protocol of :mod:`sb3_mirl.evaluation`."""

from sb3_mirl.atari.scores import GAMES, normalized_score
from sb3_mirl.evaluation import evaluate

__all__ = ["GAMES", "evaluate", "normalized_score"]
