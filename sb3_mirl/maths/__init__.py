"""The formulas of the papers, each defined once, for NumPy's arrays and torch's tensors: what goes in comes out.

Symbols (shapes are batch-first; A = number of actions, B = batch size):

=========  ==========  ==============================================================================
``q``      (..., A)    Q(s, a), action values
``rho``    (A,)        rho(a), the action prior; given as ``log_prior`` wherever it may be very small
``beta``   scalar      inverse temperature in [0, inf]: 0 follows the prior, inf is the hard maximum
``pi``     (..., A)    pi(a|s) = rho(a) exp(beta Q(s, a)) / Z, Eq. (8); given as ``log_probs``
``V``      (...)       V(s) = 1/beta log sum_a rho(a) exp(beta Q(s, a)), the soft value
``T``      scalar      temperature in [0, inf), in units of reward, of actor-critic methods
=========  ==========  ==============================================================================

Equation numbers refer to Grau-Moya, Leibfried & Vrancx, "Soft Q-Learning with Mutual-Information
Regularization", ICLR 2019, unless another paper is named.
"""

from sb3_mirl.maths.bellman import bellman_target, squared_residual
from sb3_mirl.maths.prior import (
    floored_log_prior,
    fold_policies,
    kkt_gap,
    mixed_with_uniform,
    uniform_log_prior,
    update_prior,
)
from sb3_mirl.maths.returns import n_step_soft_returns, soft_q_returns, soft_returns
from sb3_mirl.maths.soft import (
    action_scores,
    boltzmann_log_probs,
    entropy,
    entropy_bonus,
    kl_to_prior,
    mutual_information,
    soft_q_target,
    soft_value,
)
from sb3_mirl.maths.svgd import (
    importance_soft_value,
    log_det_tanh,
    median_bandwidth,
    mixture_log_density,
    proposal_log_density,
    rbf_kernel,
    squashed_score,
    svgd_direction,
)
from sb3_mirl.maths.temperature import inverse_loss_beta, linear_beta, residual_temperature

__all__ = [
    "action_scores",
    "bellman_target",
    "boltzmann_log_probs",
    "entropy",
    "entropy_bonus",
    "floored_log_prior",
    "fold_policies",
    "importance_soft_value",
    "inverse_loss_beta",
    "kkt_gap",
    "kl_to_prior",
    "linear_beta",
    "log_det_tanh",
    "median_bandwidth",
    "mixed_with_uniform",
    "mixture_log_density",
    "mutual_information",
    "n_step_soft_returns",
    "proposal_log_density",
    "rbf_kernel",
    "residual_temperature",
    "soft_q_returns",
    "soft_q_target",
    "soft_returns",
    "soft_value",
    "squared_residual",
    "squashed_score",
    "svgd_direction",
    "uniform_log_prior",
    "update_prior",
]
