"""pytest, with a package ``sb3_mirl`` whose ``__init__``, which imports torch, is not run."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

package = ModuleType("sb3_mirl")
package.__path__ = [str(Path(__file__).resolve().parents[1] / "sb3_mirl")]
sys.modules["sb3_mirl"] = package
sys.exit(pytest.main())
