"""A sampler network in place of an actor, and the critics whose Boltzmann policy it follows."""

from typing import Any, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_mirl.common.arguments import check_range

NET_ARCH = [200, 200]  # units, App. D.1
N_NOISE = 32
NOISE_SEED = 0  # of the set of noises: the same for every agent, whatever its seed
FIRST_SPREAD = 0.3  # std of the latents before training; with PyTorch's weights, about 0.05, samplers lose modes


class Sampler(BasePolicy):
    """
    Network f(s, xi) from a state and a Gaussian noise to a latent u; the action is a = tanh(u). It can represent
    distributions of any shape, and knows no density.

    :param observation_space: of one observation
    :param action_space: Box with bounds
    :param net_arch: units of the hidden layers
    :param features_extractor: of the observations
    :param features_dim: number of features
    :param noise_dim: dimension of xi
    :param activation_fn: after each hidden layer
    :param normalize_images: divide images by 255
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        noise_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.noise_dim = noise_dim
        self.activation_fn = activation_fn
        action_dim = get_action_dim(action_space)
        self.net = nn.Sequential(*create_mlp(features_dim + noise_dim, action_dim, net_arch, activation_fn))
        self._spread_out()

    @th.no_grad()
    def _spread_out(self, n: int = 1000) -> None:
        """Scale the last layer: particles do not cross barriers, so the first ones must lie on all sides of them."""
        generator = th.Generator().manual_seed(NOISE_SEED)
        noise = th.randn(1, n, self.noise_dim, generator=generator)
        std = self.latents(th.zeros(1, self.features_dim), noise).std(1).mean()
        cast(nn.Linear, self.net[-1]).weight.mul_(FIRST_SPREAD / std)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "features_dim": self.features_dim,
            "noise_dim": self.noise_dim,
            "activation_fn": self.activation_fn,
            "features_extractor": self.features_extractor,
        }

    def latents(self, features: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """
        Return u = f(s, xi).

        :param features: (B, F) of the states
        :param noise: (B, K, noise_dim), K noises per state
        :return: (B, K, d)
        """
        return self.net(_beside(features, noise))

    def forward(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """
        Return actions in the scaled box.

        :param obs: B observations
        :param noise: (B, noise_dim)
        :return: (B, d) in [-1, 1]
        """
        features = self.extract_features(obs, self.features_extractor)
        return self.net(th.cat([features, noise], dim=1)).tanh()

    def draw_noise(self, *size: int) -> th.Tensor:
        """
        Draw xi ~ N(0, I).

        :param size: of the result, without its last dimension
        :return: (*size, noise_dim)
        """
        return th.randn(*size, self.noise_dim, device=self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        features = self.extract_features(observation, self.features_extractor)
        noise = self.draw_noise(len(features))
        return self.net(th.cat([features, 0 * noise if deterministic else noise], dim=1)).tanh()


class Scale(nn.Module):
    """
    The last layer of a critic whose network counts in another unit.

    :param factor: the unit
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: th.Tensor) -> th.Tensor:
        """Return ``factor`` times the values."""
        return self.factor * values

    def extra_repr(self) -> str:
        """Return the factor, for print."""
        return str(self.factor)


class SamplerPolicy(BasePolicy):
    """
    Sampler, critics and target critics of :class:`~sb3_mirl.ContinuousSQL`, and three buffers: ``ent_coef`` (alpha),
    ``noise_set`` (n_noise, noise_dim) and ``n_noise``, how many of the set are in use. Where that is all of them the sampler
    draws new noises from N(0, I); where it is fewer, it draws from the first ones of the set.

    The deterministic action is the best of the set's noises by Q: a distribution of any shape has no mean that would be a
    good action, and xi = 0 is not its mode.

    :param observation_space: of one observation
    :param action_space: Box with bounds
    :param lr_schedule: rate of the critics at the beginning (the algorithm sets both rates)
    :param net_arch: units of the hidden layers, of all networks or as ``dict(pi=[...], qf=[...])``; [200, 200] by default
    :param activation_fn: after each hidden layer
    :param features_extractor_class: of the features extractor
    :param features_extractor_kwargs: its arguments
    :param normalize_images: divide images by 255
    :param optimizer_class: of the optimisers
    :param optimizer_kwargs: their arguments without the rate
    :param n_critics: number of critics; with more than one, Q is their minimum
    :param share_features_extractor: whether sampler and critics have one features extractor, which then follows the sampler's
        loss, as in SB3
    :param n_noise: size of the fixed set of noises
    :param noise_dim: dimension of xi; that of the action by default
    :param q_scale: unit of the critics' networks, in units of reward; Q itself is in units of reward whatever it is. Values of
        hundreds are learned faster by a network that counts in tens
    """

    actor: Sampler
    critic: ContinuousCritic
    critic_target: ContinuousCritic
    ent_coef: th.Tensor
    noise_set: th.Tensor
    n_noise: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 1,
        share_features_extractor: bool = False,
        n_noise: int = N_NOISE,
        noise_dim: int | None = None,
        q_scale: float = 1.0,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        for name, value in (("n_critics", n_critics), ("n_noise", n_noise), ("noise_dim", noise_dim)):
            if value is not None:
                check_range(f"policy_kwargs: {name}", value, 1, float("inf"), whole=True)
        check_range("policy_kwargs: q_scale", q_scale, 0, float("inf"), low_open=True, high_open=True)
        self.q_scale = q_scale
        self.net_arch = NET_ARCH if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        self.noise_dim = get_action_dim(action_space) if noise_dim is None else noise_dim
        generator = th.Generator().manual_seed(NOISE_SEED)
        self.register_buffer("ent_coef", th.tensor(1.0))
        self.register_buffer("noise_set", th.randn(n_noise, self.noise_dim, generator=generator))
        self.register_buffer("n_noise", th.tensor(float(n_noise)))
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        of_actor = self.actor.features_extractor if self.share_features_extractor else None
        self.critic = self.make_critic(of_actor)
        self.critic_target = self.make_critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.set_training_mode(False)
        self.critic_target.requires_grad_(False)
        for network in (self.actor, self.critic):
            parameters = [
                parameter
                for name, parameter in network.named_parameters()
                if not (network is self.critic and self.share_features_extractor and name.startswith("features_extractor"))
            ]
            arguments: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
            network.optimizer = self.optimizer_class(parameters, **arguments)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Sampler:
        """
        Make a sampler.

        :param features_extractor: a shared one, None to make one
        """
        architecture, _ = get_actor_critic_arch(self.net_arch)
        return Sampler(**self._arguments(architecture, features_extractor), noise_dim=self.noise_dim).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """
        Make critics, SB3's.

        :param features_extractor: a shared one, None to make one
        """
        _, architecture = get_actor_critic_arch(self.net_arch)
        critic = ContinuousCritic(
            **self._arguments(architecture, features_extractor),
            n_critics=self.n_critics,
            share_features_extractor=self.share_features_extractor,
        )
        if self.q_scale != 1:
            for network in critic.q_networks:
                cast(nn.Sequential, network).append(Scale(self.q_scale))
        return critic.to(self.device)

    def _arguments(self, net_arch: list[int], features_extractor: BaseFeaturesExtractor | None) -> dict[str, Any]:
        arguments = {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "net_arch": net_arch,
            "activation_fn": self.activation_fn,
            "normalize_images": self.normalize_images,
        }
        return self._update_features_extractor(arguments, features_extractor)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "n_critics": self.n_critics,
            "lr_schedule": self._dummy_schedule,  # a policy that is loaded alone needs no rate
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "share_features_extractor": self.share_features_extractor,
            "n_noise": len(self.noise_set),
            "noise_dim": self.noise_dim,
            "q_scale": self.q_scale,
        }

    # Acting

    def draw_noise(self, *size: int) -> th.Tensor:
        """
        Draw noises: from N(0, I), or from those of the set that are in use when these are fewer than all.

        :param size: of the result, without its last dimension
        :return: (*size, noise_dim)
        """
        in_use = int(self.n_noise)
        if in_use >= len(self.noise_set):
            return self.actor.draw_noise(*size)
        return self.noise_set[th.randint(max(in_use, 1), size, device=self.device)]

    def draw_latents(self, features: th.Tensor, n: int) -> th.Tensor:
        """
        Draw u of the sampler's actions.

        :param features: (B, F) of the sampler's features extractor
        :param n: draws per state
        :return: (B, n, d)
        """
        return self.actor.latents(features, self.draw_noise(len(features), n))

    def best_actions(self, obs: PyTorchObs) -> th.Tensor:
        """
        Return the best of the set's noises in use, by Q.

        :param obs: B observations
        :return: (B, d) in [-1, 1]
        """
        noises = self.noise_set[: max(int(self.n_noise), 1)]
        features = self.actor.extract_features(obs, self.actor.features_extractor)
        actions = self.actor.latents(features, noises.expand(len(features), -1, -1)).tanh()  # (B, n, d)
        of_critic = self.critic.extract_features(obs, self.critic.features_extractor)
        best = q_values(self.critic, of_critic, actions).argmax(1)
        return actions[th.arange(len(actions), device=actions.device), best]

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        Return actions in the scaled box.

        :param observation: B observations
        :param deterministic: the best of the set's noises in place of a draw
        :return: (B, d) in [-1, 1]
        """
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if deterministic:
            return self.best_actions(observation)
        features = self.actor.extract_features(observation, self.actor.features_extractor)
        return self.draw_latents(features, 1).squeeze(1).tanh()

    def set_training_mode(self, mode: bool) -> None:
        """
        As in SB3: the target critics always evaluate.

        :param mode: True to train
        """
        self.actor.set_training_mode(mode)
        self.critic.set_training_mode(mode)
        self.training = mode


def q_values(critic: ContinuousCritic, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    Evaluate many actions in each state.

    :param critic: one or more Q-networks
    :param features: (B, F) of its features extractor
    :param actions: (B, K, d) in [-1, 1]
    :return: (B, K) min_i Q_i(s, a)
    """
    rows = _beside(features, actions)
    values = [network(rows).squeeze(-1) for network in critic.q_networks]
    return values[0] if len(values) == 1 else th.stack(values).amin(0)


def _beside(features: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """(B, F) and (B, K, n) -> (B, K, F + n)"""
    return th.cat([features.unsqueeze(1).expand(-1, rows.shape[1], -1), rows], dim=-1)


MlpPolicy = SamplerPolicy


class CnnPolicy(SamplerPolicy):
    """:class:`SamplerPolicy` for images: features from SB3's ``NatureCNN``."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 1,
        share_features_extractor: bool = False,
        n_noise: int = N_NOISE,
        noise_dim: int | None = None,
        q_scale: float = 1.0,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
            n_critics,
            share_features_extractor,
            n_noise,
            noise_dim,
            q_scale,
        )


class MultiInputPolicy(SamplerPolicy):
    """:class:`SamplerPolicy` for dictionary observations: features from SB3's ``CombinedExtractor``."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 1,
        share_features_extractor: bool = False,
        n_noise: int = N_NOISE,
        noise_dim: int | None = None,
        q_scale: float = 1.0,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
            n_critics,
            share_features_extractor,
            n_noise,
            noise_dim,
            q_scale,
        )
