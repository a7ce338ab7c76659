from sb3_mirl.common.prior_callback import PriorCallback
from sb3_mirl.mirl.mirl import MIRL
from sb3_mirl.soft_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["MIRL", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "PriorCallback"]
