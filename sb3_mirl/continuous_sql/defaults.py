"""What a run that is too short for the paper's values takes in their place, where the user has given none."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from sb3_mirl.common.doubts import FEWEST_COPIES, FEWEST_STEPS, no_update
from sb3_mirl.common.off_policy import GuardedOffPolicy

SHORT_RUN = 200_000
"""Environment steps; the paper's runs have 1e6 to 5e6."""

TOGETHER = (("learning_starts",), ("tau", "target_update_interval"), ("learning_rate", "sampler_learning_rate"))
"""Arguments of which one alone cannot be chosen when the other was given."""


class RemembersArguments(GuardedOffPolicy):
    """A mixin before an algorithm that knows which arguments of its constructor were given."""

    given: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Note the names."""
        self = super().__new__(cls, *args, **kwargs)
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        self.given = sorted({*names[: len(args)], *kwargs})
        return self


def for_run(total_timesteps: float) -> dict[str, Any]:
    """
    Return the values for a run of a certain length; none where the paper's are right.

    :param total_timesteps: environment steps of the run
    :return: value by name of the argument
    """
    if total_timesteps >= SHORT_RUN:
        return {}
    return {
        "learning_starts": min(10_000, int(total_timesteps) // 20),
        # values that travel one step per copy would not arrive
        "tau": 0.01,
        "target_update_interval": 1,
        "learning_rate": 1e-3,
        "sampler_learning_rate": 1e-3,
    }


def left_open(
    values: Mapping[str, Any], paper: Mapping[str, Any], chosen: Mapping[str, Any], given: Iterable[str]
) -> set[str]:
    """
    Return which arguments may be chosen.

    :param values: of the model, by name
    :param paper: the defaults of the signature
    :param chosen: what was chosen for the last run
    :param given: names of what the user has given
    """
    is_open = {
        name: name not in given and values[name] in (paper[name], chosen.get(name)) for names in TOGETHER for name in names
    }
    return {name for names in TOGETHER if all(is_open[name] for name in names) for name in names}


def doubts(total_timesteps: float, learning_starts: float, updates_per_step: float, copy_interval: int | None) -> str | None:
    """
    Say what keeps a run from learning.

    :param total_timesteps: environment steps of the run
    :param learning_starts: environment steps before the first update
    :param updates_per_step: gradient updates per environment step, about
    :param copy_interval: updates between two copies into the target critics, None if these follow in another way
    :return: a sentence with numbers and advice; None for a run that can learn
    """
    if total_timesteps < FEWEST_STEPS:
        return None
    if why := no_update(total_timesteps, learning_starts):
        return why
    copies = FEWEST_COPIES
    if copy_interval is not None:
        copies = int((total_timesteps - learning_starts) * updates_per_step / copy_interval)
    if copies < FEWEST_COPIES:
        return (
            f"The target critics are copied {copies} times, every {copy_interval} updates; values travel one step per copy: "
            "lower target_update_interval, or set it to 1 and tau=0.01."
        )
    return None
