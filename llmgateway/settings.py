"""Every setting of the gateway, read from the environment once. README.md lists them for people."""

import hmac
import os
import warnings
from base64 import urlsafe_b64encode
from datetime import timedelta
from pathlib import Path

import dj_database_url
from corsheaders.defaults import default_headers
from django.templatetags.static import static

from .env import Environment, kept_secret, site_of, worker_count
from .navigation import NAVIGATION, TEAL

BASE_DIR = Path(__file__).resolve().parent.parent
env = Environment()

# -- The site -------------------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", False)
SECRET_KEY = env.str("SECRET_KEY", "") or kept_secret(BASE_DIR / "var" / "secret_key")
PUBLIC_URL = env.str("PUBLIC_URL", "")  # the address in people's browsers: https://llm.example.org
try:
    PUBLIC_SITE = site_of(PUBLIC_URL) if PUBLIC_URL else None
except ValueError:  # checks.py says what is wrong with it, and keeps the server from starting
    PUBLIC_SITE = None
HSTS_SECONDS = env.int("HSTS_SECONDS", 24 * 3600)  # that browsers ask this host by HTTPS only, if PUBLIC_URL does
ALLOWED_HOSTS = list(env.words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]"))
CSRF_TRUSTED_ORIGINS = list(env.words("CSRF_TRUSTED_ORIGINS"))
if PUBLIC_SITE:
    ALLOWED_HOSTS.append(PUBLIC_SITE.host)
    CSRF_TRUSTED_ORIGINS.append(PUBLIC_SITE.origin)
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES", "")  # whose X-Forwarded-For and X-Forwarded-Proto are believed
CORS_ALLOW_ORIGINS = env.words("CORS_ALLOW_ORIGINS")  # pages of these sites may call; * for all
LANES = env.str("LANES", "both")  # both | relay | default
WORKERS = worker_count()

# -- Secrets in the database ----------------------------------------------------------------------------------
FIELD_ENCRYPTION_KEYS = env.words("FIELD_ENCRYPTION_KEYS") or (
    urlsafe_b64encode(hmac.digest(SECRET_KEY.encode(), b"fields", "sha256")).decode(),
)

# -- Tokens ---------------------------------------------------------------------------------------------------
JWT_SIGNING_KEY = env.str("JWT_SIGNING_KEY", "") or hmac.digest(SECRET_KEY.encode(), b"jwt", "sha256").hex()
JWT_RETIRED_KEYS = env.words("JWT_RETIRED_KEYS")  # still verified, no longer signed with
ACCESS_TOKEN_LIFETIME = env.int("ACCESS_TOKEN_LIFETIME", 3600)  # seconds
REFRESH_TOKEN_LIFETIME = env.int("REFRESH_TOKEN_LIFETIME", 14 * 24 * 3600)  # seconds
API_KEY_LIFETIME = env.int("API_KEY_LIFETIME", 365 * 24 * 3600)  # seconds, where the admin names no other day
MAX_KEYS_PER_USER = env.int("MAX_KEYS_PER_USER", 10)  # working ones that users make for themselves; 0: none
READS_PER_MINUTE = env.int("READS_PER_MINUTE", 600)  # of /auth/me and /v1/models, per user; 0: no limit
SNAPSHOT_MAX_STALE = env.float("SNAPSHOT_MAX_STALE", 300.0)  # seconds that known callers outlive the database

# -- llama-servers --------------------------------------------------------------------------------------------
LLAMA_SERVERS = env.words("LLAMA_SERVERS", "http://127.0.0.1:8080")
LLAMA_API_KEY = env.str("LLAMA_API_KEY", "")
UPSTREAM_ALLOW = env.words("UPSTREAM_ALLOW")  # networks and names that upstreams may be at; empty: any
DEFAULT_MODEL = env.str("DEFAULT_MODEL", "")
UPSTREAM_CONNECT_TIMEOUT = env.float("UPSTREAM_CONNECT_TIMEOUT", 5.0)  # seconds
UPSTREAM_IDLE_TIMEOUT = env.float("UPSTREAM_IDLE_TIMEOUT", 120.0)  # seconds without a byte of the answer
UPSTREAM_POLL_INTERVAL = env.float("UPSTREAM_POLL_INTERVAL", 2.0)  # seconds between two looks at a llama-server
QUEUE_TIMEOUT = env.float("QUEUE_TIMEOUT", 60.0)  # seconds that a call waits for a slot, where its tier says nothing
HEARTBEAT_AFTER = env.float("HEARTBEAT_AFTER", 15.0)  # seconds of silence until a stream is kept alive by a comment
SHOW_TIMINGS = env.bool("SHOW_TIMINGS", False)  # llama-server's timings and cached_tokens, to its callers
MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", 16 * 1024 * 1024)
MAX_TEXT_BYTES = env.int("MAX_TEXT_BYTES", 2 * 1024 * 1024)  # of a body, its images aside

# -- The cache ------------------------------------------------------------------------------------------------
CACHE_SCOPE = env.str("CACHE_SCOPE", "user")  # user | tier | all: who meets whose answers
CACHE_TTL = env.float("CACHE_TTL", 3600.0)  # seconds that an answer is kept; 0: none is
CACHE_MAX_BYTES = env.int("CACHE_MAX_BYTES", 64 * 1024 * 1024)  # of all answers; one has a sixteenth at most
CACHE_SEEDED = env.bool("CACHE_SEEDED", False)  # a fixed seed is as good as temperature 0
CACHE_HIT_TOKENS = env.int("CACHE_HIT_TOKENS", 0)  # charged for an answer from the cache

# -- The ledger -----------------------------------------------------------------------------------------------
LEDGER_MAX_ROWS = env.int("LEDGER_MAX_ROWS", 50_000)  # that wait in memory while the database is gone, 1 KB each
USAGE_RETENTION_DAYS = env.int("USAGE_RETENTION_DAYS", 400)  # that prune_usage keeps; sums by day stay for good

# -- The end of a process -------------------------------------------------------------------------------------
DRAIN_NOTICE = env.float("DRAIN_NOTICE", 0.0)  # seconds between not being ready and refusing what waits
DRAIN_TIMEOUT = env.float("DRAIN_TIMEOUT", 60.0)  # seconds that running calls have to end

# -- Metrics --------------------------------------------------------------------------------------------------
METRICS_TOKEN = env.str("METRICS_TOKEN", "")
PROMETHEUS_MULTIPROC_DIR = env.str("PROMETHEUS_MULTIPROC_DIR", "")  # where several workers add theirs up
if PROMETHEUS_MULTIPROC_DIR:
    Path(PROMETHEUS_MULTIPROC_DIR).mkdir(parents=True, exist_ok=True)  # prometheus_client does not
else:
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # an empty one is the working directory to prometheus_client
METRICS_ALLOW = env.networks("METRICS_ALLOW", "127.0.0.0/8,::1")

# -- Stores ---------------------------------------------------------------------------------------------------
REDIS_URL = env.str("REDIS_URL", "")  # limits are counted there, for any number of workers; unset: in the process
STORE_DOWN_POLICY = env.str("STORE_DOWN_POLICY", "local")  # local | deny | allow, while Redis is gone
DATABASE_URL = env.str("DATABASE_URL", "") or f"sqlite:///{BASE_DIR / 'var' / 'llmgateway.sqlite3'}"
PAGE_QUERY_TIMEOUT = env.float("PAGE_QUERY_TIMEOUT", 15.0)  # seconds that one query of a page may take; 0: any time
DATABASES = {"default": dj_database_url.parse(DATABASE_URL)}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    (BASE_DIR / "var").mkdir(exist_ok=True)
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    }
    DATABASES["default"]["CONN_MAX_AGE"] = 600  # seconds: opening the file costs 3 ms, and the ledger writes often
    # A file, so that the server of a test run and the test itself see one database.
    DATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "var" / "test.sqlite3"}
else:
    DATABASES["default"]["OPTIONS"] = {"pool": {"timeout": 5}, "connect_timeout": 5}  # seconds

# -- Django ---------------------------------------------------------------------------------------------------
ROOT_URLCONF = "llmgateway.urls"
ASGI_APPLICATION = "llmgateway.asgi.application"
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "llmgateway",  # before staticfiles, whose runserver it replaces
    "accounts",
    "proxy",
    "unfold",  # before the admin, whose templates it replaces
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_prometheus",
    "axes",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "corsheaders",
]
MIDDLEWARE = [  # the default lane's
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "llmgateway.middleware.RequestId",
    "llmgateway.middleware.RequestMetrics",
    "llmgateway.middleware.OwnOriginOnly",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "llmgateway.middleware.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "llmgateway.middleware.GatewayErrors",
    "llmgateway.page_queries.StoppedQueries",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
RELAY_MIDDLEWARE = [  # the relay lane's, asynchronous
    "llmgateway.middleware.DjangoMetrics",
    "llmgateway.middleware.RequestId",
    "llmgateway.middleware.RequestMetrics",
]
if CORS_ALLOW_ORIGINS:
    MIDDLEWARE.insert(3, "corsheaders.middleware.CorsMiddleware")
    RELAY_MIDDLEWARE.append("corsheaders.middleware.CorsMiddleware")
RATE_HEADERS = [f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")]
RATE_HEADERS += ["ratelimit", "ratelimit-policy", "x-max-tokens"]
SDK_HEADERS = ["anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"]
SDK_HEADERS += [f"x-stainless-{what}" for what in ("lang", "package-version", "os", "arch", "runtime")]
SDK_HEADERS += [f"x-stainless-{what}" for what in ("runtime-version", "retry-count", "timeout", "helper-method")]
CORS_ALLOW_ALL_ORIGINS = "*" in CORS_ALLOW_ORIGINS
CORS_ALLOWED_ORIGINS = [origin for origin in CORS_ALLOW_ORIGINS if origin != "*"]
CORS_URLS_REGEX = r"^/(v1|auth)/"
CORS_ALLOW_HEADERS = [*default_headers, "cache-control", "x-api-key", *SDK_HEADERS]
CORS_EXPOSE_HEADERS = ["retry-after", "x-request-id", "x-dropped-params", "x-cache", "age", *RATE_HEADERS]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
AUTHENTICATION_BACKENDS = ["accounts.logins.LoginGuard", "django.contrib.auth.backends.ModelBackend"]
CLIENT_ADDRESS = "llmgateway.addresses.address_of"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]  # the rest is in accounts/logins.py
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_USERNAME_CALLABLE = "accounts.logins.name_of"
AXES_CLIENT_IP_CALLABLE = "accounts.logins.address_of"
AXES_VERBOSE = False
AXES_ENABLE_ADMIN = False  # accounts/login_admin.py has pages of its own
SILENCED_SYSTEM_CHECKS = [
    "axes.W002",  # its middleware would answer a lock with a page; LoginGuard raises one
    "security.W005",  # HSTS for subdomains, and
    "security.W021",  # for good: the gateway speaks for its own name only; see docs/decisions/0022-public-url.md
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # serves the admin's files from where they are installed
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
FORMAT_MODULE_PATH = ["llmgateway.formats"]
CSRF_FAILURE_VIEW = "llmgateway.pages.csrf_failure"
LOGIN_URL = "account-login"
LOGIN_REDIRECT_URL = "admin:index"
IS_HTTPS = PUBLIC_SITE is not None and PUBLIC_SITE.is_https
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = IS_HTTPS
SECURE_SSL_HOST = PUBLIC_SITE.netloc if PUBLIC_SITE else None
SECURE_HSTS_SECONDS = HSTS_SECONDS if IS_HTTPS else 0
SECURE_REDIRECT_EXEMPT = [r"^metrics$"]
# WhiteNoise has no asynchronous file response yet; its files are small and the default lane's alone.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

UNFOLD = {
    "SITE_TITLE": "llmgateway",
    "SITE_HEADER": "llmgateway",
    "SITE_SYMBOL": "hub",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "href": lambda _: static("accounts/icon.svg"), "type": "image/svg+xml"}],
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "proxy.dashboard.fill",
    "STYLES": [lambda _: static("proxy/admin.css")],
    "SIDEBAR": {"navigation": NAVIGATION},
    "COLORS": {"primary": TEAL},
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "proxy.openapi.GatewaySchema",
    "EXCEPTION_HANDLER": "proxy.answers.answer_in_drf",
    "UNAUTHENTICATED_USER": None,
    "NUM_PROXIES": 0,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "llmgateway",
    "DESCRIPTION": "llama-servers for many: OpenAI's and Anthropic's ways to ask, with the limits of your tier.",
    "VERSION": "v1",
    "PREPROCESSING_HOOKS": ["proxy.openapi.only_the_api"],
    "POSTPROCESSING_HOOKS": ["proxy.openapi.add_components"],
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"defaultModelsExpandDepth": -1, "persistAuthorization": True},
}
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(seconds=ACCESS_TOKEN_LIFETIME),
    "REFRESH_TOKEN_LIFETIME": timedelta(seconds=REFRESH_TOKEN_LIFETIME),
    "AUTH_TOKEN_CLASSES": ("accounts.tokens.AccessToken", "accounts.tokens.ApiKeyToken"),
    "TOKEN_OBTAIN_SERIALIZER": "accounts.serializers.TokenSerializer",
    "TOKEN_REFRESH_SERIALIZER": "accounts.serializers.RefreshSerializer",
    "SIGNING_KEY": JWT_SIGNING_KEY,
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", "INFO")},
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "propagate": True},
        "httpx": {"level": "WARNING"},  # one line a call otherwise
    },
}
