from sb3_mirl.continuous_sql.continuous_sql import ContinuousSQL

__all__ = ["ContinuousSQL"]
