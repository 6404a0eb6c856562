"""The command line: `llmgateway COMMAND`, `python -m llmgateway COMMAND` and `manage.py COMMAND` are the same."""

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmgateway.settings")
    if sys.argv[1:2] not in (["serve"], ["runserver"]):
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # the gauges of a command are not those of the gateway
    execute_from_command_line(["llmgateway", *sys.argv[1:]])


if __name__ == "__main__":
    main()
