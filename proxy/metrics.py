"""What operators count. No label holds anything that a client can choose.

Of several workers each tells what all count: gauges say how theirs combine, and only those of live workers do.
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # a second series for each one, that nobody reads

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

REQUESTS = Counter(
    "api_requests_total", "Requests answered, by route, status and tier.", ["endpoint", "status", "tier"]
)
DURATION = Histogram(
    "api_request_duration_seconds",
    "Time from a request to the end of its answer.",
    ["endpoint", "tier"],
    buckets=SECONDS,
)
REJECTIONS = Counter("api_rejections_total", "Calls that a limit refused, by the limit.", ["reason", "tier"])
FIRST_TOKEN = Histogram(
    "api_time_to_first_token_seconds",
    "Time from a request to the first event of its answer, or to the whole of one that is not streamed.",
    ["model", "tier"],
    buckets=SECONDS,
)
TOKENS = Counter(
    "api_tokens_total",
    "Tokens of ended calls: prompt, cached (a part of prompt), completion.",
    ["kind", "model", "tier"],
)
CACHE = Counter("api_cache_requests_total", "Calls by how they were answered: hit, miss, joined, bypass.", ["result"])
CACHE_UP = Gauge(
    "api_cache_up",
    "1 while answers are kept where they should be, 0 while Redis is out of reach.",
    multiprocess_mode="livemin",
)
LEDGER_ROWS = Counter("api_ledger_rows_total", "Rows of the ledger, written or rejected by the database.", ["result"])
LEDGER_WAITING = Gauge(
    "api_ledger_waiting_rows", "Ended calls whose row is not in the ledger yet.", multiprocess_mode="livesum"
)
STORE_UP = Gauge(
    "api_store_up",
    "1 while limits are counted where they should be, 0 while Redis is out of reach.",
    multiprocess_mode="livemin",
)
QUEUE_WAIT = Histogram(
    "api_queue_wait_seconds", "Time that calls waited for the slot they got.", ["tier"], buckets=SECONDS
)
QUEUE_DEPTH = Gauge("api_queue_depth", "Calls that wait for a slot now.", ["model"], multiprocess_mode="livesum")
UPSTREAM_SLOTS = Gauge(
    "api_upstream_slots",
    "Slots of an upstream: all, and busy with calls of any worker.",
    ["upstream", "state"],
    multiprocess_mode="livemostrecent",
)
UPSTREAM_UP = Gauge(
    "api_upstream_up", "1 while the llama-server answers every worker.", ["upstream"], multiprocess_mode="livemin"
)
UPSTREAM_ERRORS = Counter("api_upstream_errors_total", "Failures of a llama-server, by kind.", ["upstream", "kind"])
UPSTREAM_REQUESTS = Counter(
    "api_upstream_requests_total",
    "Calls sent to an upstream, each try counted, by outcome: answered, refused, failed, timeout, not_sent, left.",
    ["upstream", "outcome"],
)
SNAPSHOT_AGE = Gauge(
    "api_snapshot_age_seconds",
    "Time since tiers and quotas were last read from the database.",
    multiprocess_mode="livemax",
)
