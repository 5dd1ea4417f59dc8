# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The controller's part of module ollama_restore: a line for each host now and then while much comes, as for a pull."""

from __future__ import annotations

from ansible_collections.gpufleet.ollama.plugins.action import ollama_model


class ActionModule(ollama_model.ActionModule):
    """Run the module: at once where there is little to do, as a job that is watched where there is much."""

    what = "restore"
