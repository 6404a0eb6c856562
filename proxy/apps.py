"""The proxy app: from an admitted call to a llama-server and back."""

from django.apps import AppConfig, apps


class ProxyConfig(AppConfig):
    name = "proxy"

    def ready(self) -> None:
        """Models are loaded now, so what rests on them can be."""
        from . import checks  # noqa: F401, PLC0415  # registers them
        from .gateway import Gateway  # noqa: PLC0415

        self.gateway = Gateway()
        apps.get_app_config("accounts").usage_reader = self.gateway  # type: ignore[attr-defined]  # its Protocol
