"""Errors that are answers: the base of them all, and those that say who may not call.

GatewayError
├── InvalidRequest           400 invalid_request_error
├── InvalidApiKey            401 invalid_api_key
│   └── TokenExpired             token_expired
├── AccountSuspended         403 account_suspended
├── PasswordNeeded           403 password_needed
├── TooManyKeys              400 too_many_keys
├── UnknownKey               404 unknown_key
├── RateLimitExceeded        429 rate_limit_exceeded
│   └── TooManyReads             (of the account and the list of models; no quota)
└── StoreUnavailable         503 store_unavailable

proxy/errors.py grows the same tree by what can go wrong with a call.
"""


class GatewayError(Exception):
    """What went wrong, as what an error envelope says and its HTTP status.

    Raise one with a sentence for the caller; the class holds a sentence for when there is nothing to add.
    `param` names the field of the request that is at fault, `retry_after` is in seconds.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    sentence = "Something went wrong in the gateway. Please report the x-request-id of this answer."
    retry_after: int | None = None

    def __init__(self, sentence: str = "", *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(sentence or self.sentence)
        self.param = param
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request_error"
    sentence = "The request is not valid."


class InvalidApiKey(GatewayError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    sentence = "This token or API key is not valid. Get a token at /auth/token."

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": f'Bearer realm="llmgateway", error="{self.code}"'}


class TokenExpired(InvalidApiKey):
    code = "token_expired"
    sentence = "This token has expired. Get a new one at /auth/token/refresh or /auth/token."


class AccountSuspended(GatewayError):
    status = 403
    type = "permission_error"
    code = "account_suspended"
    sentence = "This account is suspended. Ask the administrator of this gateway."


class PasswordNeeded(GatewayError):
    status = 403
    type = "permission_error"
    code = "password_needed"
    sentence = "Give your password again: make keys with a token from /auth/token that is at most 5 minutes old."


class TooManyKeys(InvalidRequest):
    code = "too_many_keys"


class UnknownKey(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "unknown_key"
    sentence = "You have no such key. GET /auth/keys lists those that you have."


class RateLimitExceeded(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    sentence = "Too many requests. Try again later."


class TooManyReads(RateLimitExceeded):
    sentence = (
        "This account reads its limits and the list of models too often. This is the limit on reading and no quota:"
        " other calls are still served. Read again when Retry-After says."
    )


class StoreUnavailable(GatewayError):
    status = 503
    code = "store_unavailable"
    sentence = "The gateway cannot look up this account at the moment. Try again shortly."
    retry_after = 1
