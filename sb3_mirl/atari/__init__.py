"""The paper's Atari experiment: human-normalised scores and the evaluation protocol."""

from sb3_mirl.atari.evaluation import evaluate
from sb3_mirl.atari.scores import GAMES, normalized_score

__all__ = ["GAMES", "evaluate", "normalized_score"]
