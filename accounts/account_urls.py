"""/account, for people in a browser, as a table of contents."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from . import self_service as pages

urlpatterns = [
    path("", pages.AccountView.as_view(), name="account"),
    path("sign-in", pages.SignInView.as_view(), name="account-login"),
    path("sign-out", LogoutView.as_view(next_page="account-login"), name="account-logout"),
    path("password", pages.PasswordView.as_view(), name="account-password"),
    path("keys/<int:pk>", pages.KeyMadeView.as_view(), name="account-key-made"),
    path("keys/<int:pk>/revoke", pages.RevokeKeyView.as_view(), name="account-revoke-key"),
]
