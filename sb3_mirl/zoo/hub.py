"""Makes the zoo's ``push_to_hub`` work with newer versions of the hub's library."""

import importlib
from typing import Any


def restore_generate_metadata() -> None:
    """
    Restore the function ``generate_metadata``, which ``sb3-team-hf-integration`` 3.2 renamed and the zoo 2.9 imports. An
    upper bound on that library would do it too, but 3.2 is the only version there is with its name, and the older
    ``huggingface_sb3`` needs ``huggingface_hub`` before 1.0, which the zoo's other parts do not.
    """
    library: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if hasattr(library, "generate_metadata"):
        return

    def generate_metadata(*args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the model card's metadata as a dictionary."""
        return library._generate_metadata(*args, **kwargs).to_dict()

    library.generate_metadata = generate_metadata
