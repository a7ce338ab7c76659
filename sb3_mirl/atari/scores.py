"""Human-normalised Atari scores on the 19 games of the MIRL paper, and the paper's own results."""

import re
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.common.arguments import check_choice


class Reference(NamedTuple):
    """Raw scores of a game from no-op starts, whole episodes, unclipped.

    ``random`` and ``mnih2015`` (human) are Mnih et al. 2015, "Human-level control through deep reinforcement learning",
    Nature 518, extended data table 2, also in van Hasselt, Guez & Silver 2016, "Deep Reinforcement Learning with Double
    Q-learning", table 3. ``wang2016`` (human) is Wang et al. 2016, "Dueling Network Architectures for Deep Reinforcement
    Learning", with the same random scores.
    """

    random: float
    mnih2015: float
    wang2016: float


REFERENCES = {
    "Alien": Reference(227.8, 6875.4, 7127.7),
    "Assault": Reference(222.4, 1496.4, 742.0),
    "Asterix": Reference(210.0, 8503.3, 8503.3),
    "Asteroids": Reference(719.1, 13156.7, 47388.7),
    "BankHeist": Reference(14.2, 734.4, 753.1),
    "BeamRider": Reference(363.9, 5774.7, 16926.5),
    "Boxing": Reference(0.1, 4.3, 12.1),
    "ChopperCommand": Reference(811.0, 9881.8, 7387.8),
    "DemonAttack": Reference(152.1, 3401.3, 1971.0),
    "Gopher": Reference(257.6, 2321.0, 2412.5),
    "Kangaroo": Reference(52.0, 3035.0, 3035.0),
    "Krull": Reference(1598.0, 2394.6, 2665.5),
    "KungFuMaster": Reference(258.5, 22736.2, 22736.3),
    "Riverraid": Reference(1338.5, 13513.3, 17118.0),
    "RoadRunner": Reference(11.5, 7845.0, 7845.0),
    "Seaquest": Reference(68.4, 20181.8, 42054.7),
    "SpaceInvaders": Reference(148.0, 1652.3, 1668.7),
    "StarGunner": Reference(664.0, 10250.0, 10250.0),
    "UpNDown": Reference(533.4, 9082.0, 11693.2),
}
GAMES = tuple(REFERENCES)

PAPER_AGENTS = ("dqn", "sql", "mirl")
PAPER_TABLE_1 = {
    "Alien": (101.58, 51.02, 40.23),
    "Assault": (250.61, 283.62, 357.40),
    "Asterix": (166.32, 242.73, 330.19),
    "Asteroids": (9.74, 8.57, 7.80),
    "BankHeist": (97.12, 94.62, 166.26),
    "BeamRider": (99.16, 113.64, 117.21),
    "Boxing": (2178.57, 2283.33, 2338.89),
    "ChopperCommand": (72.71, 26.37, 65.03),
    "DemonAttack": (350.95, 451.78, 469.30),
    "Gopher": (474.18, 538.87, 429.44),
    "Kangaroo": (351.48, 393.16, 405.90),
    "Krull": (843.16, 886.68, 1036.04),
    "KungFuMaster": (122.14, 142.04, 121.41),
    "Riverraid": (77.21, 109.37, 76.02),
    "RoadRunner": (548.90, 613.62, 695.88),
    "Seaquest": (21.95, 36.00, 64.86),
    "SpaceInvaders": (166.62, 200.38, 164.79),
    "StarGunner": (653.44, 681.12, 574.89),
    "UpNDown": (183.19, 230.82, 394.21),
}
"""Table 1 of the MIRL paper: per cent of human, best of all snapshots, for each of ``PAPER_AGENTS``."""

HUMANS = ("mnih2015", "wang2016")
_NOT_THE_NAME = re.compile(r"^ALE/|(NoFrameskip|Deterministic)?(-v\d+)?$|[^a-z0-9]", re.IGNORECASE)
_BY_KEY = {game.lower(): game for game in GAMES}


def game_name(game: str) -> str:
    """
    Return the paper's spelling of a game.

    :param game: "SpaceInvaders", "SpaceInvadersNoFrameskip-v4", "ALE/SpaceInvaders-v5" or "space_invaders"
    :return: "SpaceInvaders"
    :raises TypeError: if it is not a string
    :raises ValueError: if it is not one of the paper's 19 games
    """
    if not isinstance(game, str):
        raise TypeError(f"game must be a string such as 'Seaquest', got {game!r} of type {type(game).__name__}")
    key = _NOT_THE_NAME.sub("", game).lower()
    if key not in _BY_KEY:
        raise ValueError(f"There are no reference scores for {game!r}: the paper's games are {', '.join(GAMES)}.")
    return _BY_KEY[key]


@overload
def normalized_score(game: str, score: float, human: str = "mnih2015") -> float: ...
@overload
def normalized_score(game: str, score: ArrayLike, human: str = "mnih2015") -> NDArray[np.float64]: ...
def normalized_score(game: str, score: ArrayLike, human: str = "mnih2015") -> float | NDArray[np.float64]:
    """
    Return 100 (score - random) / (human - random), section 5.2 of the MIRL paper.

    The paper's own numbers need ``"mnih2015"``: its 2178 to 2339 per cent in Boxing, where no score exceeds 100, are
    only possible with the human score 4.3 of that table. ``"wang2016"`` compares with results normalised by rliable,
    Dopamine and their kind. For a mean or median over games, normalise first.

    :param game: one of the paper's 19 games, in any spelling of :func:`game_name`
    :param score: raw, unclipped score of whole episodes; a number or an array
    :param human: "mnih2015" or "wang2016"; :class:`Reference` names the sources
    :return: per cent, 0 = random, 100 = human; shaped like ``score``
    :raises ValueError: for another game or table, or if a Boxing score is out of that game's range of -100 to 100,
        which a score that is normalised already is
    """
    name, raw = game_name(game), np.asarray(score, dtype=np.float64)
    check_choice("human", human, HUMANS)
    if name == "Boxing" and np.any(np.abs(raw) > 100):
        raise ValueError(
            f"Boxing scores lie between -100 and 100, got {raw[np.abs(raw) > 100].flat[0]:g}: is it normalised already, or "
            "was it computed back from per cent with the wrong human table?"
        )
    reference = REFERENCES[name]
    percent = 100 * (raw - reference.random) / (getattr(reference, human) - reference.random)
    return percent if percent.ndim else float(percent)
