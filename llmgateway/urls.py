"""All URLs. Those of the relay lane are /v1/ and /health; both lanes find them here."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from proxy import dashboard, health, views
from proxy.endpoints import ENDPOINTS

from .metrics import export_metrics
from .pages import favicon

urlpatterns = [
    # relay lane
    *(path(f"v1/{each.url}", views.inference(each), name=each.name) for each in ENDPOINTS),
    path("v1/models", views.Models.as_view(), name="models"),
    path("v1/models/<path:name>", views.Model.as_view(), name="model"),
    path("health", health.Health.as_view(), name="health"),
    path("health/live", health.Live.as_view(), name="health-live"),
    path("health/ready", health.Ready.as_view(), name="health-ready"),
    # default lane
    path("auth/", include("accounts.urls")),
    path("account/", include("accounts.account_urls")),
    path("schema", SpectacularAPIView.as_view(), name="schema"),
    path("docs", SpectacularSwaggerView.as_view(), name="docs"),
    path("admin/live/", admin.site.admin_view(dashboard.live), name="admin-live"),
    path("admin/", admin.site.urls),
    path("metrics", export_metrics, name="metrics"),
    path("favicon.ico", favicon, name="favicon"),
    path("", RedirectView.as_view(pattern_name="account")),
]

handler400 = "llmgateway.pages.bad_request"
handler403 = "llmgateway.pages.forbidden"
handler404 = "llmgateway.pages.not_found"
handler500 = "llmgateway.pages.server_error"
