"""The metrics, seen: gateway, llama-server and Prometheus are started, the tour is taken, the counts are photographed.

Usage: photograph.py [--picture docs/metrics.png]. It needs prometheus and chromium (Debian: apt-get install prometheus
chromium). Every query of deploy/grafana-dashboard.json and every expression of deploy/alerts.yml is asked as well: one
without an answer ends it with exit code 1.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

from demo import ROOT, Processes, Trouble, ask, free_port, say, start_everything

DEPLOY = ROOT / "deploy"
EVERY = 2  # seconds between two scrapes
RATES = "1m"  # what stands for Grafana's $__rate_interval
CALLS = 30  # beside the tour, so that there is something to wait for
SHOWN = (  # queries, and whether their graph is shown instead of their table
    ('sort_desc(sum by (endpoint, status, tier) (api_requests_total{endpoint!="metrics"}))', False),
    ('sum by (tier, status) (api_requests_total{endpoint!="metrics"})', True),
)


def start_prometheus(processes: Processes, gateway: int) -> str:
    """Prometheus on deploy/'s own files, but for the port of the gateway and the pace. Gives its URL."""
    config = (DEPLOY / "prometheus.yml").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{gateway}")
    config = re.sub(r"(scrape|evaluation)_interval: \S+", rf"\1_interval: {EVERY}s", config)
    file, port = processes.data / "prometheus.yml", free_port()
    file.write_text(config.replace("alerts.yml", str(DEPLOY / "alerts.yml")))
    binary = shutil.which("prometheus")
    if binary is None:
        raise Trouble("prometheus is not installed. On Debian: apt-get install prometheus")
    options = [f"--config.file={file}", f"--storage.tsdb.path={processes.data / 'tsdb'}"]
    processes.start_program("prometheus", binary, *options, f"--web.listen-address=127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"
    processes.wait_for(lambda: ask(f"{url}/api/v1/status/runtimeinfo"))
    return url


def query(prometheus: str, expression: str) -> list[Any]:
    """What an expression is now: a list of series."""
    answer: Any = ask(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    found = answer["data"]["result"]
    return list(found if answer["data"]["resultType"] == "vector" else [found])


def wait_for_counts(prometheus: str, expression: str, at_least: float) -> None:
    deadline = time.monotonic() + 60
    while not (found := query(prometheus, expression)) or float(found[0]["value"][1]) < at_least:
        if time.monotonic() > deadline:
            raise Trouble(f"Prometheus did not come to {at_least} for {expression}.")
        time.sleep(0.5)


def take_tour(processes: Processes, port: int) -> None:
    command = [sys.executable, "examples/tour.py", "--url", f"http://127.0.0.1:{port}"]
    command += ["--credentials", str(processes.data / "credentials.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout.strip().rsplit("\n", 1)[-1])
    if done.returncode:
        raise Trouble(f"The tour failed:\n{done.stdout}{done.stderr}")


def load(port: int, password: str) -> None:
    """Calls that keep all slots busy for a while, of a user whose quota they do not fill."""
    base = f"http://127.0.0.1:{port}"
    token = str(ask(f"{base}/auth/token", {"username": "premium", "password": password})["access_token"])
    body = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 60}
    calls = [threading.Thread(target=ask, args=(f"{base}/v1/chat/completions", body, token)) for _ in range(CALLS)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()


def dashboard_queries() -> list[tuple[str, str]]:
    """The title and the expression of each query."""
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    return [(title, expression.replace("$__rate_interval", RATES)) for title, expression in queries]


def check_queries(prometheus: str) -> int:
    """Ask every query of the dashboard. Gives how many had no answer, and says which."""
    empty = 0
    for title, expression in dashboard_queries():
        found = query(prometheus, expression)
        values = [each["value"][1] for each in found if each["value"][1] != "NaN"]
        print(f"  {len(values):3} series  {title}: {', '.join(value[:8] for value in values[:4]) or 'NONE'}")
        empty += not values
    return empty


def check_alerts(prometheus: str) -> int:
    """Gives how many of the alerts could not be evaluated, and says which would fire."""
    groups: Any = ask(f"{prometheus}/api/v1/rules")["data"]
    rules = [rule for group in groups["groups"] for rule in group["rules"]]
    sick = [rule["name"] for rule in rules if rule["health"] != "ok"]
    states = {rule["name"]: rule["state"] for rule in rules if rule["state"] != "inactive"}
    print(f"{len(rules)} alerts, not evaluated: {sick or 'none'}, not quiet: {states or 'none'}")
    return len(sick)


def photograph(prometheus: str, picture: Path) -> None:
    """A picture of Prometheus's own page with the counts."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise Trouble("chromium is not installed. On Debian: apt-get install chromium")
    fields: dict[str, Any] = {}
    for number, (expression, is_graph) in enumerate(SHOWN):
        fields |= {f"g{number}.expr": expression, f"g{number}.tab": 0 if is_graph else 1}
        fields |= {f"g{number}.range_input": "1m", f"g{number}.stacked": 0}
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,1960"]
        command += [f"--user-data-dir={profile}", "--virtual-time-budget=8000", f"--screenshot={picture.resolve()}"]
        subprocess.run(
            [*command, f"{prometheus}/graph?{urllib.parse.urlencode(fields)}"], check=True, capture_output=True
        )


def run(processes: Processes, picture: Path) -> int:
    port = free_port()
    passwords, _ = start_everything(port, processes)
    say("Starting Prometheus")
    prometheus = start_prometheus(processes, port)
    wait_for_counts(prometheus, "sum(api_requests_total)", 1)
    say("Taking the tour, and keeping the slots busy")
    take_tour(processes, port)
    load(port, passwords["premium"])
    answered = 'sum(api_requests_total{tier="premium",status="200"})'
    wait_for_counts(prometheus, answered, CALLS)
    print("The dashboard's queries:")
    failed = check_queries(prometheus) + check_alerts(prometheus)
    photograph(prometheus, picture)
    print(f"The counts are in {picture}.")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "metrics.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        try:
            return run(processes, options.picture)
        except Trouble as trouble:
            print(f"\n{trouble}", file=sys.stderr)
            return 1
        finally:
            processes.stop()


if __name__ == "__main__":
    sys.exit(main())
