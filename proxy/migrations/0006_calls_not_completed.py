from django.db import migrations, models


class Migration(migrations.Migration):
    """An index of the few calls that did not complete. While it is built, rows of the ledger wait in memory."""

    dependencies = [
        ("proxy", "0004_daily_usage"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(
                condition=models.Q(("error", ""), ("status__lt", 400), _negated=True),
                fields=["admitted_at", "status", "error"],
                name="calls_not_completed",
            ),
        ),
    ]
