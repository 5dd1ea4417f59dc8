"""Run modules in the test process."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from ansible.module_utils.testing import patch_module_args

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Call main() of a module with arguments; its JSON result comes back."""

    def run(main: Callable[[], None], check: bool = False, **args: Any) -> dict[str, Any]:
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run
