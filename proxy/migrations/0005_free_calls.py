from django.db import migrations, models


class Migration(migrations.Migration):
    """Quotas of requests leave free calls out, so that sums of days can stand for rows only where these are known.

    Code of an earlier version goes on: what it adds up has NULL here, and is added up anew.
    """

    dependencies = [
        ("proxy", "0004_daily_usage"),
    ]

    operations = [
        migrations.AddField(
            model_name="dailyusage",
            name="free_calls",
            field=models.PositiveBigIntegerField(
                help_text="Those that no quota was charged for. Empty: added up by an earlier version.", null=True
            ),
        ),
    ]
