"""How much of a large test every run does: a fifth of its random cases, or with THOROUGH=1 all of them."""

import os

IS_THOROUGH = os.environ.get("THOROUGH") == "1"


def effort(cases: int) -> int:
    return cases if IS_THOROUGH else cases // 5
