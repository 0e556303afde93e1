"""Tokens of OpenID Connect issuers: proven against the keys that the issuer publishes.

Invariants
* Only an issuer that the role's account registered is asked for its keys, at the address that was registered; no redirect is followed.
* Answers of an issuer are bounded in size and time, kept for KEPT_SECONDS, and asked for again for a key that is not known at most every
  AGAIN_SECONDS: a stranger with made-up tokens does not make this server ask.
* Loaded when the first web identity comes: PyJWT and aiohttp are the extra ``oidc``.

Sources: https://openid.net/specs/openid-connect-discovery-1_0.html, https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from titans3.model.identity import OidcProvider
from titans3.query.errors import QueryError

KEPT_SECONDS, AGAIN_SECONDS = 600.0, 30.0
_ANSWER_BYTES_MAX = 256 * 1024
_ANSWER_SECONDS_MAX = 5.0
_ISSUERS_MAX = 200
_LEEWAY_SECONDS = 60
_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"]


class WebIdentity(msgspec.Struct, frozen=True):
    """Who a proven token speaks of; ``keys`` are condition keys (lower case)."""

    provider_arn: str
    subject: str
    audience: str
    keys: dict[str, Sequence[str]]


class _Keys(msgspec.Struct):
    """An issuer's keys by id, and when they were asked for (monotonic seconds)."""

    keys: dict[str, Any]
    asked: float


_known: dict[str, _Keys] = {}
_asking: dict[str, asyncio.Lock] = {}


def provider_arn(provider: OidcProvider) -> str:
    """Its name in the world."""
    return f"arn:aws:iam::{provider.account}:oidc-provider/{provider.url}"


async def verify(token: str, find: Callable[[str], OidcProvider | None], now: float) -> WebIdentity:
    """``find`` gives the registered issuer of a URL without its scheme.

    Raises QueryError: InvalidIdentityToken, ExpiredTokenException, IDPCommunicationError.
    """
    jwt = load()
    try:
        head = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise QueryError("InvalidIdentityToken", "The web identity token is not readable.") from error
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise QueryError("InvalidIdentityToken", "The web identity token names no issuer.")
    provider = find(issuer.partition("://")[2].rstrip("/"))
    if provider is None or issuer.rstrip("/") != f"{provider.scheme}://{provider.url}":
        raise QueryError("InvalidIdentityToken", "No OpenIDConnect provider found in your account for " + issuer[:200])
    if not provider.clients:
        raise QueryError("InvalidIdentityToken", "Incorrect token audience")
    key = await _key(issuer.rstrip("/"), str(head.get("kid", "")))
    try:
        proven = jwt.decode(
            token, key, algorithms=_ALGORITHMS, audience=list(provider.clients), issuer=issuer, leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iat", "sub", "aud"]},
        )  # fmt: skip
    except jwt.ExpiredSignatureError as error:
        raise QueryError("ExpiredTokenException", f"Token expired: current date/time {int(now)} must be before the expiration") from error
    except jwt.InvalidAudienceError as error:
        raise QueryError("InvalidIdentityToken", "Incorrect token audience") from error
    except (jwt.PyJWTError, TypeError, ValueError) as error:
        raise QueryError("InvalidIdentityToken", "The web identity token could not be proven.") from error
    audience, subject = _audience(proven, provider.clients), str(proven["sub"])
    url = provider.url.lower()
    keys: dict[str, Sequence[str]] = {f"{url}:aud": (audience,), f"{url}:sub": (subject,)}
    for name in ("amr", "email"):
        value = proven.get(name)
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            keys[f"{url}:{name}"] = tuple(texts)
    return WebIdentity(provider_arn(provider), subject, audience, keys)


def load() -> Any:
    """PyJWT. Raises QueryError where the extra is not installed."""
    try:
        import jwt
    except ImportError as error:
        raise QueryError("IDPCommunicationError", "Web identities need the extra oidc: pip install 'titans3[oidc]'") from error
    return jwt


def _audience(claims: dict[str, Any], clients: Sequence[str]) -> str:
    """The authorized party if the token names one, as AWS takes it; else the first audience that is registered."""
    party = claims.get("azp")
    if isinstance(party, str) and party in clients:
        return party
    audience = claims["aud"]
    given = [audience] if isinstance(audience, str) else audience
    return next(one for one in given if one in clients)


async def _key(issuer: str, kid: str) -> Any:
    """The issuer's key of that id; a token without one fits an issuer with one key. Raises QueryError."""
    lock = _asking.setdefault(issuer, asyncio.Lock())
    async with lock:
        known = _known.get(issuer)
        now = time.monotonic()
        missing = known is None or (kid and kid not in known.keys)
        if known is None or now - known.asked > (AGAIN_SECONDS if missing else KEPT_SECONDS):
            if len(_known) >= _ISSUERS_MAX:
                _known.clear()
            known = _known[issuer] = _Keys(await asyncio.ensure_future(_ask(issuer)), now)  # aiohttp wants a task
    if kid in known.keys:
        return known.keys[kid]
    if not kid and len(known.keys) == 1:
        return next(iter(known.keys.values()))
    raise QueryError("InvalidIdentityToken", "The issuer has no key of the token's id.")


async def _ask(issuer: str) -> dict[str, Any]:
    jwt = load()
    try:
        found = await _get(f"{issuer}/.well-known/openid-configuration")
        address = found.get("jwks_uri")
        if str(found.get("issuer", "")).rstrip("/") != issuer or not isinstance(address, str):
            raise QueryError("IDPCommunicationError", "The issuer's configuration is of another issuer or names no keys.")
        scheme, _, rest = issuer.partition("://")
        if not address.startswith("https://") and not (scheme == "http" and address.startswith(f"http://{rest.partition('/')[0]}/")):
            raise QueryError("IDPCommunicationError", "The issuer's keys are not at an https address.")
        listed = (await _get(address)).get("keys")
    except (OSError, TimeoutError, ValueError) as error:
        raise QueryError("IDPCommunicationError", "The issuer could not be asked for its keys.") from error
    keys: dict[str, Any] = {}
    for item in listed if isinstance(listed, list) else ():
        try:
            key = jwt.PyJWK(item)
        except (jwt.PyJWTError, TypeError, ValueError):
            continue  # of a kind that this library does not know: tokens under it are refused
        if key.key_type != "oct":
            keys[key.key_id or ""] = key
    return keys


async def _get(url: str) -> dict[str, Any]:
    """A JSON object. Raises OSError, TimeoutError, ValueError."""
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS_MAX)) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            data = await response.content.read(_ANSWER_BYTES_MAX + 1)
            while len(data) <= _ANSWER_BYTES_MAX and (piece := await response.content.read(_ANSWER_BYTES_MAX)):
                data += piece
            if response.status != 200 or len(data) > _ANSWER_BYTES_MAX:
                raise ValueError(f"{url} answers {response.status} with {len(data)} bytes")
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{url} is no JSON object")
    return found
