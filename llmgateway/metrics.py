"""/metrics, for Prometheus and for nobody else."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.utils.crypto import constant_time_compare
from django_prometheus.exports import ExportToDjangoView

from accounts.errors import InvalidApiKey
from proxy.answers import answer_to

from .addresses import is_forwarded, peer, scope_of, within
from .processes import sweep


def export_metrics(request: Any) -> HttpResponse:
    if not may_read(request):
        return answer_to(InvalidApiKey("Metrics are for bearers of METRICS_TOKEN and for peers in METRICS_ALLOW."))
    if settings.PROMETHEUS_MULTIPROC_DIR:
        sweep(Path(settings.PROMETHEUS_MULTIPROC_DIR))
    return ExportToDjangoView(request)


def may_read(request: Any) -> bool:
    """A bearer of METRICS_TOKEN, or a direct peer in METRICS_ALLOW: a proxy's neighbourhood is everybody's."""
    sent = request.headers.get("Authorization", "")
    if settings.METRICS_TOKEN and constant_time_compare(sent, f"Bearer {settings.METRICS_TOKEN}"):
        return True
    scope = scope_of(request)
    return not is_forwarded(scope) and within(peer(scope), settings.METRICS_ALLOW)
