"""Templates of the admin: those of Django and unfold stay in use where nobody means to replace them."""

from pathlib import Path

import django.contrib.admin
import pytest
import unfold

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
OWN = [path for app in ("accounts", "proxy") for path in (ROOT / app / "templates" / "admin").rglob("*.html")]
THEIRS = {
    path.name
    for package in (django.contrib.admin, unfold)
    for path in (Path(package.__file__).parent / "templates" / "admin").glob("*.html")
}


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_template_with_django_s_name_extends_that(path):
    """Django's tags look for theirs in the folder of an app and a model first: another one there is taken instead."""
    is_home = path.parent.name == "admin"  # the dashboard is meant to be another page
    assert path.name not in THEIRS or is_home or f'{{% extends "admin/{path.name}" %}}' in path.read_text()
