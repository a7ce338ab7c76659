"""Checks of single arguments, with errors that name the argument, the value and what is allowed."""

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a real number of Python or NumPy; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """
    Check the argument ``name``, which has a few values.

    :raises ValueError: if ``value`` is not one of ``choices``
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known, choose from {', '.join(map(repr, choices))}.")


def check_range(
    name: str, value: Any, low: float, high: float, low_open: bool = False, high_open: bool = False, whole: bool = False
) -> None:
    """
    Check the argument ``name``, a number, or with ``whole`` an integer.

    :raises ValueError: if ``value`` is not in the interval from ``low`` to ``high``, whose ends are in it unless open
    """
    fits = is_number(value) and (isinstance(value, Integral) or not whole)
    above = fits and (value > low if low_open else value >= low)
    if not (above and (value < high if high_open else value <= high)):
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        raise ValueError(f"{name}={value!r} must be {'an integer' if whole else 'a number'} in {interval}.")


def check_names(cls: type, given: Iterable[str]) -> None:
    """
    Refuse arguments that a class does not have. A class that takes ``**kwargs`` decides by itself what they may be. What its
    attribute ``why_not`` says by the name of an argument, such as one that its relatives in SB3 have, is part of the message.

    :raises TypeError: naming the class and the argument, and the nearest one that there is
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            near = get_close_matches(name, parameters, n=1)
            reason = getattr(cls, "why_not", {}).get(name) or (f"did you mean {near[0]!r}?" if near else "")
            raise TypeError(f"{cls.__name__} has no argument {name!r}" + (f": {reason}" if reason else "."))
