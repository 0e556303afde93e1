"""OpenID Connect providers: issuers of web identities that an account's roles may trust.

Invariants
* An issuer has an https address. Plain http is taken for an issuer on this machine's loopback, and only in the server's root account.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateOpenIDConnectProvider.html and its siblings
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from titans3.cluster.transaction import Transaction
from titans3.model.identity import FORMAT, ROOT_ACCOUNT, OidcProvider, oidc_key
from titans3.query.answer import Moment, Tree, tag_list
from titans3.query.call import Call, Keys, resource_keys, tag_keys
from titans3.query.errors import QueryError, absent, exceeded, invalid
from titans3.query.parameters import ARN, URL, Kind
from titans3.query.users import merged_tags, tag_page, without_tags
from titans3.query.web_identity import provider_arn

_PROVIDERS_MAX = 100  # per account
_CLIENTS_MAX = 100
_THUMBPRINTS_MAX = 5
_CLIENT = Kind(None, 255)
_THUMBPRINT = Kind(None, 40, 40)


async def create_open_id_connect_provider(call: Call) -> dict[str, Tree]:
    scheme, url = _address(call, call.parameters.text("Url", URL))
    clients = call.parameters.members("ClientIDList", _CLIENT, _CLIENTS_MAX)
    prints = call.parameters.members("ThumbprintList", _THUMBPRINT, _THUMBPRINTS_MAX)
    tags = call.parameters.tags()
    provider = OidcProvider(FORMAT, call.account, url, tuple(clients), tuple(prints), call.now_ms, tags, scheme)
    call.authorize(provider_arn(provider), tag_keys(tags))
    key = oidc_key(call.account, url)

    async def create(transaction: Transaction) -> None:
        if await transaction.read(key, OidcProvider) is not None:
            raise QueryError("EntityAlreadyExists", f"Provider with url {url} already exists.")
        if len(await transaction.list(oidc_key(call.account, ""), OidcProvider)) >= _PROVIDERS_MAX:
            raise exceeded("OpenIdConnectProvidersPerAccount", _PROVIDERS_MAX)
        transaction.put(key, provider)

    await call.transact(create)
    return {"OpenIDConnectProviderArn": provider_arn(provider), "Tags": tag_list(tags) if tags else None}


async def get_open_id_connect_provider(call: Call) -> dict[str, Tree]:
    provider = await _named(call)
    return {
        "Url": provider.url, "ClientIDList": list(provider.clients), "ThumbprintList": list(provider.thumbprints),
        "CreateDate": Moment(provider.created_ms), "Tags": tag_list(provider.tags) if provider.tags else None,
    }  # fmt: skip


async def list_open_id_connect_providers(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    providers = await call.directory.list_of(oidc_key(call.account, ""), OidcProvider)
    return {"OpenIDConnectProviderList": [{"Arn": provider_arn(provider)} for provider in providers]}


async def delete_open_id_connect_provider(call: Call) -> None:
    arn = call.parameters.text("OpenIDConnectProviderArn", ARN)
    call.authorize(arn)
    key = oidc_key(call.account, _url_of(call, arn))

    async def delete(transaction: Transaction) -> None:
        if await transaction.read(key, OidcProvider) is not None:
            transaction.delete(key)

    await call.transact(delete)


async def add_client_id(call: Call) -> None:
    client = call.parameters.text("ClientID", _CLIENT)

    def change(provider: OidcProvider) -> OidcProvider:
        clients = tuple(dict.fromkeys((*provider.clients, client)))
        if len(clients) > _CLIENTS_MAX:
            raise exceeded("ClientIdsPerOpenIdConnectProvider", _CLIENTS_MAX)
        return msgspec.structs.replace(provider, clients=clients)

    await _change(call, change)


async def remove_client_id(call: Call) -> None:
    client = call.parameters.text("ClientID", _CLIENT)
    await _change(
        call, lambda provider: msgspec.structs.replace(provider, clients=tuple(one for one in provider.clients if one != client))
    )


async def update_thumbprint(call: Call) -> None:
    prints = tuple(call.parameters.members("ThumbprintList", _THUMBPRINT, _THUMBPRINTS_MAX))
    await _change(call, lambda provider: msgspec.structs.replace(provider, thumbprints=prints))


async def tag_open_id_connect_provider(call: Call) -> None:
    tags = call.parameters.tags()
    await _change(call, lambda provider: msgspec.structs.replace(provider, tags=merged_tags(provider.tags, tags)), tag_keys(tags))


async def untag_open_id_connect_provider(call: Call) -> None:
    names = call.parameters.members("TagKeys", longest=50)
    await _change(
        call, lambda provider: msgspec.structs.replace(provider, tags=without_tags(provider.tags, names)), {"aws:tagkeys": tuple(names)}
    )


async def list_open_id_connect_provider_tags(call: Call) -> dict[str, Tree]:
    return tag_page(call, (await _named(call)).tags)


def _address(call: Call, text: str) -> tuple[str, str]:
    """Scheme and rest of an issuer's URL. Raises QueryError(ValidationError)."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise invalid("Invalid Open ID Connect Provider URL") from error
    plain = parts.scheme == "http" and _is_loopback(host) and call.account == ROOT_ACCOUNT
    if (parts.scheme != "https" and not plain) or not host or parts.query or parts.fragment or parts.username is not None:
        raise invalid("Invalid Open ID Connect Provider URL: it must begin with https:// and have no query")
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority += f":{port}"
    return parts.scheme, f"{authority}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url_of(call: Call, arn: str) -> str:
    start = f"arn:aws:iam::{call.account}:oidc-provider/"
    if not arn.startswith(start) or len(arn) == len(start):
        raise absent("OpenIDConnect provider", arn)
    return arn[len(start) :]


async def _named(call: Call, keys: Keys | None = None) -> OidcProvider:
    """OpenIDConnectProviderArn's. Raises QueryError(NoSuchEntity)."""
    arn = call.parameters.text("OpenIDConnectProviderArn", ARN)
    found = await call.directory.read(oidc_key(call.account, _url_of(call, arn)), OidcProvider)
    if found is None:
        call.authorize(arn, keys)
        raise QueryError("NoSuchEntity", f"OpenIDConnect Provider not found for arn {arn}")
    call.authorize(arn, resource_keys(found[0].tags) | dict(keys or {}))
    return found[0]


async def _change(call: Call, change: Callable[[OidcProvider], OidcProvider], keys: Keys | None = None) -> None:
    provider = await _named(call, keys)
    key = oidc_key(call.account, provider.url)

    async def work(transaction: Transaction) -> None:
        transaction.put(key, change(await transaction.need(key, OidcProvider, absent("OpenIDConnect provider", provider.url))))

    await call.transact(work)


ACTIONS = {
    "AddClientIDToOpenIDConnectProvider": add_client_id,
    "CreateOpenIDConnectProvider": create_open_id_connect_provider,
    "DeleteOpenIDConnectProvider": delete_open_id_connect_provider,
    "GetOpenIDConnectProvider": get_open_id_connect_provider,
    "ListOpenIDConnectProviderTags": list_open_id_connect_provider_tags,
    "ListOpenIDConnectProviders": list_open_id_connect_providers,
    "RemoveClientIDFromOpenIDConnectProvider": remove_client_id,
    "TagOpenIDConnectProvider": tag_open_id_connect_provider,
    "UntagOpenIDConnectProvider": untag_open_id_connect_provider,
    "UpdateOpenIDConnectProviderThumbprint": update_thumbprint,
}
