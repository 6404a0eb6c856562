"""The proxy app: from an admitted call to a llama-server and back."""

from typing import Any

from django.apps import AppConfig, apps


class ProxyConfig(AppConfig):
    name = "proxy"
    verbose_name = "Gateway"

    def ready(self) -> None:
        """Models are loaded now, so what rests on them can be."""
        from . import checks  # noqa: F401, PLC0415  # registers them
        from .counters import StoreCounter  # noqa: PLC0415
        from .gateway import Gateway  # noqa: PLC0415
        from .reports import Reports  # noqa: PLC0415

        self.gateway = Gateway()
        accounts: Any = apps.get_app_config("accounts")  # what it wants of proxy is registered there
        accounts.usage_reader = Reports(self.gateway)
        accounts.event_counter = StoreCounter(self.gateway)
