"""`make demo`: everything at once. A real llama-server, the gateway, an admin and one user per tier.

Usage: demo.py [--port 8000]. Prints what to open and what to paste; Ctrl-C stops all.
"""

import argparse
import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USERS = ("admin", "free", "premium", "enterprise")
MAKE_USERS = """
import json
from accounts.models import Tier, User
for name, password in json.load(open(CREDENTIALS)).items():
    tier = Tier.objects.get(name="enterprise" if name == "admin" else name)
    user = User.objects.filter(username=name).first() or User(username=name, tier=tier)
    user.is_staff = user.is_superuser = name == "admin"
    user.is_active = True
    user.set_password(password)
    user.save()
"""


class Trouble(Exception):
    """What keeps the demo from going on, in one sentence."""


def say(step: str) -> None:
    print(f"{step} ...", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise Trouble(f"Port {port} is in use. Choose another one: make demo PORT={port + 1}") from exc


def manage(env: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"`manage.py {arguments[0]}` failed:\n{done.stderr.strip()[-2000:]}")


def new_passwords(credentials: Path) -> dict[str, str]:
    """A password for each user, kept where examples/tour.py finds them."""
    passwords = {name: secrets.token_urlsafe(9) for name in USERS}
    credentials.touch(mode=0o600)
    credentials.write_text(json.dumps(passwords))
    return passwords


def ask(url: str, body: dict[str, object] | None = None, token: str = "") -> dict[str, object]:
    """The JSON that a URL answers. Raises OSError where it does not answer well."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return dict(json.load(response))


class Processes:
    """The servers of the demo, each in a process group of its own, so that none outlives it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, env: dict[str, str], *arguments: str) -> None:
        """Start a Python program."""
        self.start_program(name, sys.executable, *arguments, env=env)

    def start_program(self, name: str, *command: str, env: dict[str, str] | None = None) -> None:
        with (self.data / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def check(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                log = self.data / f"{name}.log"
                tail = log.read_text(errors="replace").strip()[-1500:]
                raise Trouble(f"The {name} has stopped. Its last words, from {log}:\n{tail}")

    def wait_for(self, what: Callable[[], object], within: float = 90.0) -> object:
        """Ask until there is an answer."""
        deadline = time.monotonic() + within
        while True:
            self.check()
            try:
                return what()
            except OSError as exc:
                if time.monotonic() > deadline:
                    raise Trouble(f"No answer within {within:.0f} s: {exc}. The logs are in {self.data}.") from exc
                time.sleep(0.1)

    def stop(self) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)  # whoever is impatient shall leave no process behind, either
        for process in reversed(self.running.values()):
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def start_everything(port: int, processes: Processes) -> tuple[dict[str, str], str]:
    """Start it all. Gives the passwords, and what the model said."""
    base, llama = f"http://127.0.0.1:{port}", free_port()
    env = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{processes.data / 'demo.sqlite3'}",
        "LLAMA_SERVERS": f"http://127.0.0.1:{llama}",
        "REDIS_URL": "",
        "LANES": "both",
        "WEB_CONCURRENCY": "1",
        "PUBLIC_URL": "",
    }
    say("Starting a llama-server with SmolLM2 135M")
    processes.start("llama-server", env, "examples/llama_server.py", "--port", str(llama))
    say("Preparing the database, the tiers and the users")
    manage(env, "migrate", "-v0")
    credentials = processes.data / "credentials.json"
    passwords = new_passwords(credentials)
    manage(env, "shell", "-v0", "-c", f"CREDENTIALS = {str(credentials)!r}\n{MAKE_USERS}")
    processes.wait_for(lambda: ask(f"http://127.0.0.1:{llama}/v1/models"))
    say("Starting the gateway")
    processes.start("gateway", env, "manage.py", "serve", "--port", str(port))
    processes.wait_for(lambda: ask(f"{base}/health"))
    say("Asking the model through the gateway")
    pair = ask(f"{base}/auth/token", {"username": "enterprise", "password": passwords["enterprise"]})
    hello = {"messages": [{"role": "user", "content": "Say hello in five words."}], "max_tokens": 20, "temperature": 0}
    answer = ask(f"{base}/v1/chat/completions", hello, str(pair["access_token"]))
    return passwords, str(answer["choices"][0]["message"]["content"])  # type: ignore[index]


def show(port: int, passwords: dict[str, str], said: str) -> None:
    base = f"http://127.0.0.1:{port}"
    print(f"\nThe model says: {said.strip()}\n")
    print(f"  API      {base}/v1          the base URL for any OpenAI client")
    print(f"  admin    {base}/admin/      {'admin':12}{passwords['admin']}")
    print(f"  account  {base}/account/    what a user sees: limits, use, own keys, lines to paste")
    print(f"  docs     {base}/docs        the API, to be read and tried")
    print(f"  health   {base}/health")
    print(f"  metrics  {base}/metrics\n")
    for name, limit in (("free", 10), ("premium", 100), ("enterprise", 1000)):
        print(f"  user {name:12}password {passwords[name]:16}{limit:5} requests a minute")
    print("\nPaste into another terminal:\n")
    print(f"TOKEN=$(curl -s {base}/auth/token -d username=free -d 'password={passwords['free']}' \\")
    print("  | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"access_token\"])')")
    print(f'curl -N {base}/v1/chat/completions -H "Authorization: Bearer $TOKEN" \\')
    print('  -d \'{"stream": true, "messages": [{"role": "user", "content": "Name three colours."}]}\'\n')
    print(f"Or take the tour: {os.path.relpath(sys.executable, Path.cwd())} examples/tour.py --url {base}")
    print("Ctrl-C stops everything.", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data", type=Path, default=ROOT / "var" / "demo", help="where database and logs are kept")
    options = parser.parse_args()
    port = options.port
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)  # SIGINT too: a shell's background jobs start deaf to it
    processes = Processes(options.data.resolve())
    try:
        check_port(port)
        processes.data.mkdir(parents=True, exist_ok=True)
        show(port, *start_everything(port, processes))
        while True:
            time.sleep(1)
            processes.check()
    except KeyboardInterrupt:
        print("\nStopping.")
    except Trouble as trouble:
        print(f"\n{trouble}", file=sys.stderr)
        return 1
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        print("\nThe disk is full. The demo needs about 400 MB.", file=sys.stderr)
        return 1
    finally:
        processes.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
