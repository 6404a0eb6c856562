"""The app that puts the others together: how they are served, and what is said of the site as a whole."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "llmgateway"

    def ready(self) -> None:
        from . import checks  # noqa: F401, PLC0415  # registers them
