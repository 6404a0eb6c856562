"""The accounts app: who may call, and how much."""

from django.apps import AppConfig

from .usage import EventCounter, UsageReader


class AccountsConfig(AppConfig):
    name = "accounts"
    usage_reader: UsageReader  # registered by proxy, and so is
    event_counter: EventCounter

    def ready(self) -> None:
        from . import checks, logins  # noqa: F401, PLC0415  # register what they hold; apps must be loaded first
