"""The three tiers that every installation starts with. Edit them in the admin."""

from typing import Any

from django.db import migrations

TIERS = [  # name, requests a minute, weight
    ("free", 10, 1),
    ("premium", 100, 4),
    ("enterprise", 1000, 16),
]


def create_tiers(apps: Any, schema_editor: Any) -> None:
    tiers, quotas = apps.get_model("accounts", "Tier"), apps.get_model("accounts", "Quota")
    for name, requests, weight in TIERS:
        tier = tiers.objects.create(name=name, weight=weight, is_default=name == "free")
        quotas.objects.create(tier=tier, metric="requests", window="minute", limit=requests)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]
    operations = [migrations.RunPython(create_tiers, migrations.RunPython.noop)]
