"""/auth, as a table of contents."""

from django.urls import path

from . import views

urlpatterns = [
    path("token", views.TokenView.as_view(), name="token"),
    path("token/refresh", views.RefreshView.as_view(), name="token-refresh"),
    path("token/revoke", views.RevokeView.as_view(), name="token-revoke"),
    path("keys", views.KeysView.as_view(), name="keys"),
    path("keys/<int:pk>", views.KeyView.as_view(), name="key"),
    path("me", views.MeView.as_view(), name="me"),
]
