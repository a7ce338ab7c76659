"""What one gradient update of :class:`~sb3_mirl.ContinuousSQL` computes: proposals, soft values, the two losses."""

import math
from typing import Literal, NamedTuple

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_mirl.continuous_sql.policies import Sampler, SamplerPolicy, q_values
from sb3_mirl.maths import (
    importance_soft_value,
    log_det_tanh,
    median_bandwidth,
    proposal_log_density,
    squashed_score,
    svgd_direction,
)

ValueSampling = Literal["mixture", "uniform", "policy"]
SquashSpace = Literal["latent", "action"]

UNIFORM_SHARE = 0.1  # of the mixture's draws: the sampler may have lost a mode
MOST_CENTERS = 256  # of the mixture, whose cost grows with their number
NARROWEST = 0.01  # std of the mixture's components where particles coincide
LOWEST_LOG_DET = -30.0  # of a sampler's Jacobian: where it is flat there is no density
EDGE = 1e-6  # of the box, for atanh and the authors' logarithm


class Proposal(NamedTuple):
    """Draws for the integral over the actions."""

    actions: th.Tensor  # (B, K, d) in [-1, 1]
    log_density: th.Tensor  # (B, K) in the box, in nats


class Estimate(NamedTuple):
    """Soft values by importance sampling."""

    value: th.Tensor  # (B,) in units of reward
    effective_samples: th.Tensor  # (B,) 1 / sum of squared normalised weights, between 1 and K


class SamplerStep(NamedTuple):
    """The sampler's loss and what is logged of it."""

    loss: th.Tensor  # scalar
    direction: th.Tensor  # (B, K, d) phi
    bandwidth: th.Tensor  # (B,) h


@th.no_grad()
def propose(policy: SamplerPolicy, obs: PyTorchObs, n: int, how: ValueSampling) -> Proposal:
    """
    Draw actions for :func:`soft_values`.

    :param policy: its sampler is the source, except for "uniform"
    :param obs: B observations
    :param n: draws per state
    :param how: "mixture": Gaussians around draws of the sampler, as wide as these scatter, and a tenth uniform draws;
        "uniform"; "policy": draws of the sampler, with the density of its Jacobian, which is right where it is injective
    """
    actor = policy.actor
    features = actor.extract_features(obs, actor.features_extractor)
    if how == "uniform":
        return _uniform(features, n, _action_dim(actor))
    if how == "policy":
        noise = actor.draw_noise(len(features), n)
        latents, log_density = density_by_jacobian(actor, features, noise)
        return Proposal(latents.tanh(), log_density - log_det_tanh(latents))
    n_uniform = round(UNIFORM_SHARE * n)
    centers = policy.draw_latents(features, min(n - n_uniform, MOST_CENTERS))  # (B, C, d)
    std = centers.std(1, correction=0).clamp(min=NARROWEST)  # (B, d)
    around = centers if n - n_uniform <= MOST_CENTERS else centers[:, th.randint(MOST_CENTERS, (n - n_uniform,))]
    latents = around + std.unsqueeze(1) * th.randn_like(around)
    if n_uniform:
        uniform = _uniform(features, n_uniform, centers.shape[-1]).actions.clamp(EDGE - 1, 1 - EDGE)
        latents = th.cat([latents, uniform.atanh()], dim=1)
    return Proposal(latents.tanh(), proposal_log_density(latents, centers, std, n_uniform / n))


def _uniform(features: th.Tensor, n: int, d: int) -> Proposal:
    actions = 2 * th.rand(len(features), n, d, device=features.device) - 1
    return Proposal(actions, actions.new_full(actions.shape[:-1], -d * math.log(2)))


def _action_dim(actor: Sampler) -> int:
    return int(th.Size(actor.action_space.shape or ()).numel())


def density_by_jacobian(actor: Sampler, features: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Return the sampler's latents and their density by Eq. (33), log N(xi; 0, I) - log |det du/dxi|. Where several noises
    have the same latent, the density of all of them together is higher.

    :param actor: with as many noises as dimensions of the action
    :param features: (B, F) of the states
    :param noise: (B, K, d)
    :return: (B, K, d) u, and (B, K) the log-density of u, in nats
    """
    noise = noise.detach().requires_grad_()
    with th.enable_grad():
        latents = actor.latents(features, noise)
        # one backward pass per dimension; states and noises are independent rows
        sums = latents.flatten(0, -2).sum(0)
        rows = [th.autograd.grad(total, noise, retain_graph=True)[0] for total in sums]
    log_det = th.linalg.slogdet(th.stack(rows, dim=-2)).logabsdet.clamp(min=LOWEST_LOG_DET)
    log_normal = -0.5 * (noise.square().sum(-1) + noise.shape[-1] * math.log(2 * math.pi))
    return latents.detach(), (log_normal - log_det).detach()


@th.no_grad()
def soft_values(critic: ContinuousCritic, obs: PyTorchObs, proposal: Proposal, ent_coef: th.Tensor) -> Estimate:
    """
    V(s) = alpha log of the integral of exp(Q(s, a) / alpha) over the scaled box, Eq. (10).

    :param critic: Q
    :param obs: B observations
    :param proposal: draws in these states
    :param ent_coef: scalar alpha > 0, in units of reward
    """
    features = critic.extract_features(obs, critic.features_extractor)
    q = q_values(critic, features, proposal.actions)
    value = importance_soft_value(q, proposal.log_density, 1 / ent_coef)
    weights = (q / ent_coef - proposal.log_density).softmax(-1)
    return Estimate(value, 1 / weights.square().sum(-1))


def sampler_step(policy: SamplerPolicy, obs: PyTorchObs, m: int, k: int, space: SquashSpace) -> SamplerStep:
    """
    The loss -1/(B K) sum <phi(y_j), y_j>, whose gradient moves the sampler's particles y along the Stein variational
    direction phi. M further particles x carry the expectation; one particle alone is both.

    :param policy: with the current critics and alpha
    :param obs: B observations
    :param m: number M of particles x
    :param k: number K of particles y
    :param space: "latent", or "action" for the authors' code: kernel and particles in the space of the actions, and
        sum log(1 - a^2) beside Q
    """
    features = policy.actor.extract_features(obs, policy.actor.features_extractor)
    noise = policy.draw_noise(len(features), 1 if m == k == 1 else m + k)
    y = policy.actor.latents(features, noise[:, -k:])
    with th.no_grad():
        x = policy.actor.latents(features, noise[:, :m])
    actions = x.tanh()
    grad_q = action_gradient(policy.critic, obs, actions)
    beta = 1 / policy.ent_coef
    if space == "latent":
        score = squashed_score(actions, grad_q, beta)
    else:
        x, y = actions, y.tanh()
        score = beta * grad_q - 2 * x / (1 - x.square() + EDGE)
    bandwidth = median_bandwidth(x, y.detach())
    direction = svgd_direction(x, y.detach(), score, bandwidth)
    return SamplerStep(-(direction * y).sum(-1).mean(), direction, bandwidth)


def action_gradient(critic: ContinuousCritic, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """
    Gradient of Q with respect to the actions; none of the networks' own gradients are computed.

    :param critic: Q
    :param obs: B observations
    :param actions: (B, M, d) in [-1, 1]
    :return: (B, M, d)
    """
    with th.no_grad():
        features = critic.extract_features(obs, critic.features_extractor)
    actions = actions.detach().requires_grad_()
    with th.enable_grad():
        (gradient,) = th.autograd.grad(q_values(critic, features, actions).sum(), actions)
    return gradient
