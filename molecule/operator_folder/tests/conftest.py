"""The tests reach the box as those of the other scenarios do."""

import os
import sys

sys.path.insert(0, os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared"))

import scenario  # noqa: E402,F401  # pylint: disable=unused-import
