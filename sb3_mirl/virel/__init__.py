from sb3_mirl.virel.virel import VIREL

__all__ = ["VIREL"]
