"""Run modules in the test process."""

from __future__ import annotations

import json
from typing import Any, Callable
from unittest.mock import patch

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Call main() of a module with arguments; its JSON result comes back."""

    def run(main: Callable[[], None], check: bool = False, **args: Any) -> dict[str, Any]:
        # where a part of the controller was imported before, the result would not hold them
        warnings: list[str] = []
        said = patch.object(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
        with said, patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            main()
        # a server of the stand-in in this process may log behind it
        answer = next(line for line in reversed(capsys.readouterr().out.splitlines()) if line.startswith("{"))
        return {**json.loads(answer), **({"warnings": warnings} if warnings else {})}

    return run
