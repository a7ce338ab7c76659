"""What keeps a run of an off-policy algorithm from learning."""

FEWEST_COPIES = 10
"""Into the target network, after learning has started."""

FEWEST_STEPS = 100
"""Of a run that is meant to learn: shorter ones try whether something works."""


def no_update(total_timesteps: float, learning_starts: float) -> str | None:
    """
    Say why a run has no update.

    :param total_timesteps: environment steps of the run
    :param learning_starts: environment steps before the first update
    :return: a sentence with numbers and advice; None for a run with updates
    """
    if total_timesteps > learning_starts:
        return None
    return (
        f"There is no update, because learning starts after {learning_starts:g} steps (learning_starts). Train longer, or "
        "lower learning_starts."
    )
