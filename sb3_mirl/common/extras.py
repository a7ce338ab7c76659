"""Advice in place of a bare error where a package of an extra is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """
    Say in the error of a failed import what brings the missing package::

        with extra("plots"):
            import matplotlib

    :param name: of the extra in ``pyproject.toml``
    :raises ModuleNotFoundError: if an import inside fails so, with advice
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}. {how_to_install(name)}", name=error.name, path=error.path) from error


def how_to_install(name: str) -> str:
    """Return a sentence that says how to install the extra ``name``."""
    return (
        f"It comes with the extra [{name}] of sb3_mirl: in a clone of the repository, pip install '.[{name}]' "
        "(the package is on no index yet)."
    )
