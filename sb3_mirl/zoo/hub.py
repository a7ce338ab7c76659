"""Makes the zoo's ``push_to_hub`` work with newer versions of the hub's library."""

import importlib
from typing import Any


def restore_generate_metadata() -> None:
    """``huggingface_sb3`` 3.2 renamed the function ``generate_metadata``, which the zoo 2.9 imports from it."""
    library: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if hasattr(library, "generate_metadata"):
        return

    def generate_metadata(*args: Any, **kwargs: Any) -> dict[str, Any]:
        """The model card's metadata, as a dictionary."""
        return library._generate_metadata(*args, **kwargs).to_dict()

    library.generate_metadata = generate_metadata
