from django.db import migrations, models


class AddIndexWhileServing(migrations.AddIndex):
    """AddIndex that keeps no writer waiting on PostgreSQL. What an earlier try left half done is dropped first."""

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor != "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        schema_editor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{self.index.name}"')
        schema_editor.add_index(to_state.apps.get_model(app_label, self.model_name), self.index, concurrently=True)


class Migration(migrations.Migration):
    """An index of the few calls that did not complete."""

    atomic = False  # PostgreSQL builds no index beside its writers within a transaction

    dependencies = [
        ("proxy", "0005_free_calls"),
    ]

    operations = [
        AddIndexWhileServing(
            model_name="usagerecord",
            index=models.Index(
                condition=models.Q(("error", ""), ("status__lt", 400), _negated=True),
                fields=["admitted_at", "status", "error"],
                name="calls_not_completed",
            ),
        ),
    ]
