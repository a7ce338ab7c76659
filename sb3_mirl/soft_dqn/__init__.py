from sb3_mirl.soft_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SoftQPolicy
from sb3_mirl.soft_dqn.soft_dqn import SoftDQN

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SoftDQN", "SoftQPolicy"]
