"""
Soft Q-learning with continuous actions: the Stein variational direction that trains a sampler, and the soft value by
importance sampling.

Symbols: d = dimension of the action; actions ``a = tanh(u)`` are in the box [-1, 1]^d, and ``u`` is called latent; alpha =
1 / beta is the temperature of the paper. Equation numbers refer to Haarnoja, Tang, Abbeel & Levine, "Reinforcement Learning
with Deep Energy-Based Policies", ICML 2017 (https://arxiv.org/abs/1702.08165).

Particles are latent, and so are the kernel and the score. In the space of the actions the density does not vanish at the
bounds, Stein's identity fails there, and the kernel's repulsion pushes particles against the bounds.
"""

import math
from numbers import Real

import torch as th


def median_bandwidth(x: th.Tensor, y: th.Tensor, floor: float = 1e-3) -> th.Tensor:
    """
    h = max(med |x_i - y_j|^2 / log(M + 1), floor), the rule of Liu & Wang 2016. (The paper's App. D.1 takes the distance
    where its source takes the square, and half of it.)

    :param x: (..., M, d) particles
    :param y: (..., K, d) particles
    :param floor: lowest bandwidth > 0: particles that are all equal have the median 0
    :return: (...) bandwidths; of an even number of distances the lower median
    :raises ValueError: if the shapes do not match, or the floor is not positive
    """
    _check_particles(x, y)
    if not (isinstance(floor, Real) and 0 < floor < math.inf):
        raise ValueError(f"floor={floor!r} must be a number > 0: it keeps the kernel finite where particles are equal.")
    median = _squared_distances(x, y).flatten(-2).median(-1).values
    return (median / math.log(x.shape[-2] + 1)).clamp(min=floor)


def rbf_kernel(x: th.Tensor, y: th.Tensor, bandwidth: float | th.Tensor) -> th.Tensor:
    """
    k(x_i, y_j) = exp(-|x_i - y_j|^2 / h).

    :param x: (..., M, d) particles
    :param y: (..., K, d) particles
    :param bandwidth: h > 0, a number or (...)
    :return: (..., M, K)
    :raises ValueError: if the shapes do not match, or a bandwidth is not positive
    """
    _check_particles(x, y)
    return (-_squared_distances(x, y) / _bandwidths(bandwidth, x)).exp()


def svgd_direction(x: th.Tensor, y: th.Tensor, score: th.Tensor, bandwidth: float | th.Tensor) -> th.Tensor:
    """
    phi(y_j) = 1/M sum_i [k(x_i, y_j) score(x_i) + grad_{x_i} k(x_i, y_j)], Eq. (13) over alpha: the direction in which
    particles y come nearest to the density of the score.

    The sum over i is taken by matrix products; there is no (M, K, d) tensor.

    :param x: (..., M, d) particles over which the expectation is taken
    :param y: (..., K, d) particles to move
    :param score: (..., M, d) gradient of the log-density at x
    :param bandwidth: h > 0 of the kernel exp(-|x - y|^2 / h), a number or (...)
    :return: (..., K, d)
    :raises ValueError: if the shapes do not match, or a bandwidth is not positive
    """
    _check_particles(x, y)
    if score.shape != x.shape:
        raise ValueError(f"score must have the shape of x, {tuple(x.shape)}, got {tuple(score.shape)}.")
    h = _bandwidths(bandwidth, x)
    weights = rbf_kernel(x, y, bandwidth).transpose(-1, -2)  # (..., K, M)
    # only differences count: near the origin their sums lose no digits
    origin = y.mean(-2, keepdim=True)
    repulsion = (y - origin) * weights.sum(-1, keepdim=True) - weights @ (x - origin)
    return (weights @ score + 2 / h * repulsion) / x.shape[-2]


def squashed_score(action: th.Tensor, grad_q: th.Tensor, beta: float | th.Tensor) -> th.Tensor:
    """
    Gradient of log[exp(beta Q(s, tanh u)) prod_i (1 - tanh^2 u_i)] with respect to u: the score of the Boltzmann policy's
    latent. It is finite everywhere.

    :param action: (..., d) a = tanh(u)
    :param grad_q: (..., d) gradient of Q with respect to a
    :param beta: inverse temperature > 0, in 1 / reward
    :return: (..., d) beta (1 - a^2) grad_q - 2 a
    :raises ValueError: if the shapes differ, or beta is not positive
    """
    if action.shape != grad_q.shape or action.dim() < 1:
        raise ValueError(
            f"action and grad_q must have one shape (..., d), got {tuple(action.shape)} and {tuple(grad_q.shape)}."
        )
    return _check_beta(beta) * (1 - action.square()) * grad_q - 2 * action


def importance_soft_value(q: th.Tensor, log_density: th.Tensor, beta: float | th.Tensor) -> th.Tensor:
    """
    V = 1/beta log 1/K sum_k exp(beta Q(s, a_k)) / q(a_k), Eq. (10): the soft value by importance sampling. E[exp(beta V)]
    is exact for any proposal q that is positive in the box; V itself is biased downwards, by half the relative variance
    of the mean of the weights, over beta.

    Computed in float64 from differences to the best action, so that it is exact at every scale of Q.

    :param q: (..., K) action values of the draws a_k
    :param log_density: (..., K) log q(a_k), in nats, of the proposal that drew them
    :param beta: inverse temperature > 0, in 1 / reward
    :return: (...) soft values, of the dtype of ``q``
    :raises ValueError: if the shapes differ, there is no draw, or beta is not positive
    """
    if q.shape != log_density.shape or q.dim() < 1 or q.shape[-1] < 1:
        raise ValueError(
            f"q and log_density must have one shape (..., K), K >= 1, got {tuple(q.shape)} and {tuple(log_density.shape)}."
        )
    inverse_temperature = th.as_tensor(_check_beta(beta), dtype=th.float64, device=q.device)
    exact = q.double()
    best = exact.amax(-1, keepdim=True)
    log_mean = (inverse_temperature * (exact - best) - log_density.double()).logsumexp(-1) - math.log(q.shape[-1])
    return (best.squeeze(-1) + log_mean / inverse_temperature).to(q.dtype)


def log_det_tanh(u: th.Tensor) -> th.Tensor:
    """
    log |det da/du| = sum_i log(1 - tanh^2 u_i) of a = tanh(u), to the last digits at every u.

    :param u: (..., d) latents
    :return: (...)
    :raises ValueError: for a scalar
    """
    if u.dim() < 1:
        raise ValueError("u must have the shape (..., d), got a scalar.")
    size = u.abs()
    return 2 * (math.log(2) - size - (-2 * size).exp().log1p()).sum(-1)


def mixture_log_density(u: th.Tensor, centers: th.Tensor, std: th.Tensor) -> th.Tensor:
    """
    log 1/C sum_c N(u_k; center_c, diag(std^2)): the density in u of draws around the particles of a sampler. That of
    a = tanh(u) is this minus :func:`log_det_tanh`.

    :param u: (..., K, d) where to evaluate
    :param centers: (..., C, d) centres, of equal weight
    :param std: (..., d) standard deviations > 0
    :return: (..., K) in nats
    :raises ValueError: if the shapes do not match, or a standard deviation is not positive
    """
    _check_particles(u, centers, "u", "centers")
    if std.shape != (*u.shape[:-2], u.shape[-1]):
        raise ValueError(f"std must have the shape (..., d) = {(*u.shape[:-2], u.shape[-1])}, got {tuple(std.shape)}.")
    _check_positive("std", std)
    scale = std.unsqueeze(-2)
    exponents = -0.5 * _squared_distances(u / scale, centers / scale)  # (..., K, C)
    log_scale = std.log().sum(-1, keepdim=True) + 0.5 * math.log(2 * math.pi) * u.shape[-1] + math.log(centers.shape[-2])
    return exponents.logsumexp(-1) - log_scale


def proposal_log_density(u: th.Tensor, centers: th.Tensor, std: th.Tensor, uniform_share: float) -> th.Tensor:
    """
    Density in the box of a proposal for :func:`importance_soft_value`: with weight ``uniform_share`` uniform, else
    a = tanh(u) with u from :func:`mixture_log_density`. Draws in these proportions, each with the density of the whole,
    have weights of low variance (the balance heuristic of Veach & Guibas 1995).

    :param u: (..., K, d) latents of the draws, of all of them
    :param centers: (..., C, d) centres
    :param std: (..., d) standard deviations > 0
    :param uniform_share: in [0, 1]
    :return: (..., K) log q(a), in nats
    :raises ValueError: if the shapes do not match, or an argument is out of its range
    """
    if not (isinstance(uniform_share, Real) and 0 <= uniform_share <= 1):
        raise ValueError(f"uniform_share={uniform_share!r} is a weight and must be in [0, 1].")
    log_mixture = mixture_log_density(u, centers, std) - log_det_tanh(u)
    if uniform_share == 0:
        return log_mixture
    log_uniform = math.log(uniform_share) - u.shape[-1] * math.log(2)
    if uniform_share == 1:
        return th.full_like(log_mixture, log_uniform)
    return (log_mixture + math.log1p(-uniform_share)).logaddexp(log_mixture.new_tensor(log_uniform))


def _squared_distances(x: th.Tensor, y: th.Tensor) -> th.Tensor:
    """(..., M, K) |x_i - y_j|^2; by products, around an origin that keeps them small."""
    origin = y.mean(-2, keepdim=True)
    x, y = x - origin, y - origin
    squares = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    return (squares - 2 * x @ y.transpose(-1, -2)).clamp(min=0)


def _check_particles(x: th.Tensor, y: th.Tensor, name: str = "x", other: str = "y") -> None:
    same = x.dim() >= 2 and y.dim() == x.dim() and x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-1]
    if not same or min(*x.shape[-2:], y.shape[-2]) < 1:
        raise ValueError(
            f"{name} and {other} must be particles (..., M, d) and (..., K, d), with at least one each, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )


def _bandwidths(bandwidth: float | th.Tensor, x: th.Tensor) -> th.Tensor:
    """(..., 1, 1) or (1, 1)"""
    h = th.as_tensor(bandwidth, dtype=x.dtype, device=x.device)
    if h.dim() > 0 and h.shape != x.shape[:-2]:
        raise ValueError(f"bandwidth must be a number or have the shape {tuple(x.shape[:-2])}, got {tuple(h.shape)}.")
    _check_positive("bandwidth", h)
    return h[..., None, None]


def _check_positive(name: str, values: th.Tensor) -> None:
    # an accelerator is not waited for
    if values.device.type == "cpu" and values.numel() and not values.min().item() > 0:
        raise ValueError(f"{name} must be > 0, got {values.min().item()}.")


def _check_beta(beta: float | th.Tensor) -> float | th.Tensor:
    if isinstance(beta, th.Tensor):
        if beta.dim() != 0:
            raise ValueError(f"beta must be a number or a scalar tensor, got shape {tuple(beta.shape)}.")
        if beta.device.type != "cpu":
            return beta
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta!r} must be a number > 0: it is the inverse of a temperature.")
    return beta
