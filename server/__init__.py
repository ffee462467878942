"""The HTTP service: what happens to finetunes, rollouts, steps and checkpoints; never tensors."""

import sys

from contract.python import complaint

if (_complaint := complaint(sys.version_info)) is not None:
    # Before any module that an older Python cannot read; those would end with a trace.
    raise SystemExit(f"moontune: {_complaint}")
