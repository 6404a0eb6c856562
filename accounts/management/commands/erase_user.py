"""Erase a person: the same as the admin's action."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.erasure import erase
from accounts.models import User
from accounts.user_actions import ERASE


class Command(BaseCommand):
    help = "Erase a person: remove names, mail, keys and access for good, and keep what was used. Asks first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="user name of the person")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["name"]
        user = User.objects.filter(username=name).first()
        if user is None:
            raise CommandError(f"There is no user named {name}.")
        if user.erased_at is not None:
            self.stdout.write(f"{name} was erased on {user.erased_at:%Y-%m-%d}. Nothing is left to do.")
            return
        if not options["yes"]:
            self.ask(user)
        revoked = erase(user)
        self.stdout.write(f"{name} erased: called {user} from now on. API keys revoked: {revoked}.")

    def ask(self, user: User) -> None:
        """Say what happens and what stays, and go on only where the name is typed again."""
        rights = ["a superuser"] if user.is_superuser else ["staff"] if user.is_staff else []
        told = [*(f"{user} is {each}." for each in rights), *ERASE.effects, "What stays:", *ERASE.stays]
        self.stderr.write("\n".join([*told, "This cannot be undone."]))
        try:
            typed = input(f"Type {user} to erase: ")
        except EOFError:
            typed = ""
        if typed != user.username:
            raise CommandError("Nobody was erased. Type the name as it is, or give --yes.")
