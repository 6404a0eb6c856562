"""`manage.py runserver`: uvicorn on both lanes, restarting when code changes."""

from argparse import ArgumentParser
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Serve both lanes for development, restarting when code changes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "addrport", nargs="?", default="127.0.0.1:8000", help="[ADDRESS:]PORT (default: %(default)s)"
        )
        parser.add_argument("--noreload", action="store_false", dest="reload", help="do not restart on changes")

    def handle(self, *args: Any, **options: Any) -> None:
        host, _, port = options["addrport"].rpartition(":")
        if not port.isdigit():
            raise CommandError(f"'{options['addrport']}' is no [ADDRESS:]PORT.")
        uvicorn.run(
            "llmgateway.asgi:application",
            http="llmgateway.protocol:GatewayProtocol",
            host=host or "127.0.0.1",
            port=int(port),
            reload=options["reload"],
            proxy_headers=False,
        )
