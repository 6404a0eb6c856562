#!/usr/bin/env python
"""Django's command line: `python manage.py COMMAND`."""

from llmgateway.__main__ import main

if __name__ == "__main__":
    main()
