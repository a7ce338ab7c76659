"""Human-normalised scores against published ones; the evaluation protocol on environments with known answers."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.atari import GAMES, evaluate, normalized_score
from sb3_mirl.atari.scores import PAPER_TABLE_1, REFERENCES, game_name
from tests.conftest import ScriptedEnv

# raw scores that Table 1's per cent stand for (DQN, SQL, MIRL), rounded to one decimal; computed with the 2015 table
PAPER_RAW = {
    "Alien": (6980.4, 3619.4, 2902.1),
    "Assault": (3415.2, 3835.7, 4775.7),
    "Asterix": (14003.4, 20340.3, 27593.6),
    "Asteroids": (1930.5, 1785.0, 1689.2),
    "BankHeist": (713.7, 695.7, 1211.6),
    "BeamRider": (5729.2, 6512.7, 6705.9),
    "Boxing": (91.6, 96.0, 98.3),
    "ChopperCommand": (7406.4, 3203.0, 6709.7),
    "DemonAttack": (11555.2, 14831.3, 15400.6),
    "Gopher": (10041.8, 11376.6, 9118.7),
    "Kangaroo": (10536.6, 11780.0, 12160.0),
    "Krull": (8314.6, 8661.3, 9851.1),
    "KungFuMaster": (27712.8, 32185.8, 27548.7),
    "Riverraid": (10738.7, 14654.1, 10593.8),
    "RoadRunner": (43009.6, 48079.4, 54523.3),
    "Seaquest": (4483.3, 7309.2, 13114.0),
    "SpaceInvaders": (2654.5, 3162.3, 2626.9),
    "StarGunner": (63302.8, 65956.2, 55773.0),
    "UpNDown": (16193.6, 20265.3, 34232.8),
}


def test_the_papers_column_means_and_medians_come_from_its_raw_scores() -> None:
    percent = np.array([normalized_score(game, PAPER_RAW[game]) for game in GAMES])
    # 0.1 points of Boxing are 2.4 per cent, a game in 19
    np.testing.assert_allclose(percent.mean(axis=0), [356.26, 388.83, 413.46], atol=0.1)  # last row of Table 1
    np.testing.assert_allclose(np.median(percent, axis=0), [166.62, 230.82, 330.19], atol=0.01)
    # section 5.2: best in 3, 5 and 11 of the games
    np.testing.assert_array_equal(np.bincount(percent.argmax(axis=1)), [3, 5, 11])


@pytest.mark.parametrize("game", GAMES)
def test_each_raw_score_gives_the_papers_per_cent(game: str) -> None:
    reference = REFERENCES[game]
    rounding = 100 * 0.05 / (reference.mnih2015 - reference.random) + 0.005
    np.testing.assert_allclose(normalized_score(game, PAPER_RAW[game]), PAPER_TABLE_1[game], atol=rounding)


@pytest.mark.parametrize(
    ("game", "score", "percent"),
    # "Normalized DQN" of Mnih et al. 2015, extended data table 2
    [("Alien", 3069, 42.7), ("Assault", 3359, 246.2), ("Seaquest", 5286, 25.9), ("StarGunner", 57997, 598.1)],
)
def test_normalised_scores_published_with_the_table(game: str, score: float, percent: float) -> None:
    assert normalized_score(game, score) == pytest.approx(percent, abs=0.1)


def test_the_other_human_table() -> None:
    assert normalized_score("Boxing", 12.1, "wang2016") == pytest.approx(100)
    assert normalized_score("Boxing", 12.1) == pytest.approx(100 * 12 / 4.2)
    with pytest.raises(ValueError, match="'nature' is not known, choose from 'mnih2015', 'wang2016'"):
        normalized_score("Boxing", 1, "nature")


def test_scores_that_boxing_cannot_give_are_refused() -> None:
    # Table 1's 2338.89 % with the wrong table would be 280.767 points
    reference = REFERENCES["Boxing"]
    raw = reference.random + 23.3889 * (reference.wang2016 - reference.random)
    with pytest.raises(ValueError, match=r"between -100 and 100, got 280.767"):
        normalized_score("Boxing", [50.0, raw])
    with pytest.raises(ValueError, match="normalised already"):
        normalized_score("Boxing", 2338.89)


@pytest.mark.parametrize("spelling", ["UpNDown", "up_n_down", "UpNDownNoFrameskip-v4", "ALE/UpNDown-v5", "upndown"])
def test_spellings(spelling: str) -> None:
    assert game_name(spelling) == "UpNDown"
    assert normalized_score(spelling, 9082.0) == pytest.approx(100)


def test_other_games_are_refused() -> None:
    with pytest.raises(ValueError, match="no reference scores for 'Breakout'"):
        normalized_score("Breakout", 30)


class Recorder(ScriptedEnv):
    """Adds up the actions that it is given, of all its copies."""

    def __init__(self, counts: np.ndarray) -> None:
        super().__init__(length=25)
        self.counts = counts

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.counts[action] += 1
        return super().step(action)


@pytest.fixture
def counts() -> np.ndarray:
    return np.zeros(3)


@pytest.fixture
def env(counts: np.ndarray) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Recorder(counts))] * 4)


@pytest.fixture
def mirl(env: DummyVecEnv, small: dict[str, Any]) -> MIRL:
    model = MIRL("MlpPolicy", env, **small)
    model.policy.log_prior.copy_(model.policy.log_prior.new_tensor([0.9, 0.1, 1e-8]).log())
    return model


def test_actions_of_evaluation_come_from_the_prior_or_from_all(mirl: MIRL, env: DummyVecEnv, counts: np.ndarray) -> None:
    evaluate(mirl, env, 40, epsilon=1.0, exploration="prior", seed=0)
    np.testing.assert_allclose(counts / counts.sum(), [0.9, 0.1, 0], atol=0.04)
    counts[:] = 0
    evaluate(mirl, env, 40, epsilon=1.0, exploration="uniform", seed=0)
    np.testing.assert_allclose(counts / counts.sum(), [1 / 3] * 3, atol=0.06)


def test_none_is_greedy_and_epsilon_has_its_rate(mirl: MIRL, env: DummyVecEnv, counts: np.ndarray) -> None:
    mirl.policy.beta.fill_(0.0)  # greedy is the prior's first action
    evaluate(mirl, env, 8, epsilon=1.0, exploration="none", seed=0)
    assert counts[0] == counts.sum() == 200
    counts[:] = 0
    evaluate(mirl, env, 80, epsilon=0.3, exploration="uniform", seed=0)
    np.testing.assert_allclose(counts / counts.sum(), [0.8, 0.1, 0.1], atol=0.03)


def test_dqn_and_sql_explore_uniformly_and_sql_m_by_its_counts(env: DummyVecEnv, small: dict[str, Any], counts: Any) -> None:
    sql_m = SoftDQN("MlpPolicy", env, exploration="marginal", **small)
    sql_m.policy.action_counts.copy_(sql_m.policy.action_counts.new_tensor([0.0, 3.0, 1.0]))
    evaluate(sql_m, env, 40, epsilon=1.0, seed=0)
    np.testing.assert_allclose(counts / counts.sum(), [0, 0.75, 0.25], atol=0.05)
    counts[:] = 0
    evaluate(SoftDQN("MlpPolicy", env, **small), env, 40, epsilon=1.0, seed=0)
    np.testing.assert_allclose(counts / counts.sum(), [1 / 3] * 3, atol=0.06)


def test_evaluation_repeats_itself_and_leaves_no_trace(mirl: MIRL, env: DummyVecEnv) -> None:
    epsilon, state = mirl.exploration_rate, np.random.get_state()[1].copy()
    returns, lengths = evaluate(mirl, env, 6, seed=3)
    again, _ = evaluate(mirl, env, 6, seed=3)
    np.testing.assert_array_equal(returns, again)
    assert returns.shape == lengths.shape == (6,) and (lengths == 25).all()
    assert not np.array_equal(returns, evaluate(mirl, env, 6, seed=4)[0])
    assert mirl.exploration_rate == epsilon
    np.testing.assert_array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize("wrong", [{"epsilon": 1.5}, {"exploration": "rho"}, {"n_episodes": 0}])
def test_wrong_arguments(mirl: MIRL, env: DummyVecEnv, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        evaluate(mirl, env, **wrong)


@pytest.mark.atari
def test_atari_episodes_end_at_the_papers_limit(small: dict[str, Any]) -> None:
    from sb3_mirl.experiments import ATARI

    env = ATARI.make_env("Boxing", 2, 0, training=False)
    assert env.get_attr("max_episode_steps") == [4500, 4500]
    assert not env.get_attr("clip_reward")[0] and not env.get_attr("episodic_life")[0]
    env.close()
