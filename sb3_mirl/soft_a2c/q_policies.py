"""Policies of one Q-network with layer normalisation, an action prior and an inverse temperature."""

from typing import Any, ClassVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from sb3_mirl.maths import action_scores, boltzmann_log_probs, entropy_bonus, soft_value, uniform_log_prior


class PQNPolicy(BasePolicy):
    """
    One Q-network that acts by argmax_a [log rho(a) + beta Q(s, a)], by epsilon-greedy or by Boltzmann exploration.

    Every hidden layer is followed by a ``LayerNorm``, those of the features extractor included: it takes the place of
    DQN's target network (Gallici et al. 2024). ``log_prior`` and ``beta`` are buffers: a policy loaded alone acts like the
    model that saved it.

    :param observation_space: of the environment
    :param action_space: of the environment, ``Discrete``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param net_arch: units of the hidden layers, by default [64, 64], and none behind ``NatureCNN``
    :param activation_fn: behind each of them
    :param features_extractor_class: class of the features extractor
    :param features_extractor_kwargs: its arguments
    :param normalize_images: whether to divide images by 255
    :param layer_norm: whether hidden layers are normalised; without it learning is not known to be stable
    :param optimizer_class: of torch
    :param optimizer_kwargs: its arguments, except the learning rate
    :param use_sde: for the sake of SB3's interface; must be False
    """

    may_be_infinite: ClassVar[tuple[str, ...]] = ("log_prior", "beta")  # log 0 is a logarithm, beta = inf the hard maximum
    log_prior: th.Tensor  # (A,) log rho(a), float64: float32 loses an action after 103 e-folds
    beta: th.Tensor  # scalar, inverse temperature
    q_net: QNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        layer_norm: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.RAdam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
        )
        if use_sde:
            raise ValueError("State-dependent exploration (use_sde=True) is for continuous actions.")
        if net_arch is None:
            net_arch = [] if features_extractor_class == NatureCNN else [64, 64]
        self.net_arch = net_arch
        self.activation_fn = activation_fn
        self.layer_norm = layer_norm
        self.exploration_rate: float | None = 0.0
        """Probability of a random action where actions are not deterministic; None samples the policy instead."""
        self.entropy_bonus = False
        """Whether soft values contain log|A| / beta."""
        self.rollout_q_values: th.Tensor | None = None
        """(B, A) Q(s, a) of the last call of ``forward``."""
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        net_args = {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "normalize_images": self.normalize_images,
        }
        self.q_net = QNetwork(**self._update_features_extractor(net_args, features_extractor=None))
        if self.layer_norm:
            insert_layer_norms(self.q_net)
        n_actions = int(cast(spaces.Discrete, self.action_space).n)
        self.register_buffer("log_prior", uniform_log_prior(n_actions))
        self.register_buffer("beta", th.full((), th.inf, dtype=th.float64))
        optimizer_class: Any = self.optimizer_class
        self.optimizer = optimizer_class(self.q_net.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    @property
    def prior(self) -> np.ndarray:
        """(A,) rho(a), summing to 1."""
        return self.log_prior.softmax(-1).cpu().numpy()

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Act, as SB3's actor-critic policies do.

        :param obs: observations as tensors, (B, ...) or a dictionary of such
        :param deterministic: whether not to explore
        :return: actions (B,), soft values (B,), and for the sake of the interface zeros (B,)
        """
        q = self.rollout_q_values = self.q_net(obs)
        return self._act(q, deterministic), self.soft_values(q), q.new_zeros(len(q))

    def soft_values(self, q: th.Tensor) -> th.Tensor:
        """
        Return V(s) = 1/beta log sum_a rho(a) exp(beta Q(s, a)), with :attr:`entropy_bonus` log|A| / beta more.

        :param q: (B, A) Q(s, a)
        :return: (B,)
        """
        values = soft_value(q, self.log_prior, self.beta)
        return values + entropy_bonus(len(self.log_prior), self.beta) if self.entropy_bonus else values

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        Return soft values.

        :param obs: observations as tensors
        :return: (B,)
        """
        return self.soft_values(self.q_net(obs))

    def log_probs(self, q: th.Tensor) -> th.Tensor:
        """
        Return log pi(a|s) = log rho(a) + beta (Q(s, a) - V(s)).

        :param q: (B, A) Q(s, a)
        :return: (B, A), float64
        """
        return boltzmann_log_probs(q, self.log_prior, self.beta)

    def get_distribution(self, obs: PyTorchObs) -> CategoricalDistribution:
        """
        Return the policy pi(a|s), as SB3's actor-critic policies do.

        :param obs: observations as tensors
        :return: distribution of B actions
        """
        distribution = CategoricalDistribution(len(self.log_prior))
        return distribution.proba_distribution(self.log_probs(self.q_net(obs)))

    def action_probabilities(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        Return pi(a|s), from and to NumPy.

        :param observation: one observation or a batch of them, as for ``predict``
        :return: (A,) or (B, A) probabilities
        """
        self.set_training_mode(False)
        obs, is_batch = self.obs_to_tensor(observation)
        with th.no_grad():
            probs = self.log_probs(self.q_net(obs)).exp().cpu().numpy()
        return probs if is_batch else probs.squeeze(0)

    def _act(self, q: th.Tensor, deterministic: bool) -> th.Tensor:
        epsilon = 0.0 if deterministic else self.exploration_rate
        if epsilon is None:
            return self.log_probs(q).exp().multinomial(1).squeeze(-1)
        greedy = action_scores(q, self.log_prior, self.beta).argmax(-1)
        if epsilon == 0:
            return greedy
        explores = th.rand(len(q), device=q.device) < epsilon
        return th.where(explores, self.log_prior.softmax(-1).multinomial(len(q), replacement=True), greedy)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._act(self.q_net(observation), deterministic)

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3."""
        self.q_net.set_training_mode(mode)
        self.training = mode

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "layer_norm": self.layer_norm,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


MlpPolicy = PQNPolicy


class CnnPolicy(PQNPolicy):
    """:class:`PQNPolicy` for images: features from SB3's ``NatureCNN``, normalised."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch, activation_fn, features_extractor_class, *args, **kwargs
        )


class MultiInputPolicy(PQNPolicy):
    """:class:`PQNPolicy` for dictionary observations: features from SB3's ``CombinedExtractor``, normalised."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch, activation_fn, features_extractor_class, *args, **kwargs
        )


def insert_layer_norms(network: QNetwork) -> None:
    """
    Put a ``LayerNorm`` behind every hidden layer of a network: behind the linear and convolutional layers that something
    follows in their ``Sequential``. Images are normalised over channels, rows and columns.

    :param network: changed in place
    """
    hidden = [
        (sequence, layer)
        for sequence in network.modules()
        if isinstance(sequence, nn.Sequential)
        for layer in list(sequence)[:-1]
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    shapes: dict[nn.Module, th.Size] = {}

    def note_shape(layer: nn.Module, _: Any, output: th.Tensor) -> None:
        shapes[layer] = output.shape[1:]

    hooks = [layer.register_forward_hook(note_shape) for _, layer in hidden]
    network.set_training_mode(False)
    with th.no_grad():
        network(_zeros(network.observation_space))
    for hook in hooks:
        hook.remove()
    for sequence, layer in hidden:
        sequence.insert(list(sequence).index(layer) + 1, nn.LayerNorm(shapes[layer]))


def _zeros(space: spaces.Space[Any]) -> Any:
    """A batch of one observation."""
    if isinstance(space, spaces.Dict):
        return {key: _zeros(part) for key, part in space.spaces.items()}
    return th.zeros((1, *(space.shape or ())))
