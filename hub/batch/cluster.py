"""HTTP with the API server of Kubernetes: objects as JSON, and its silence as BackendUnavailableError."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

import httpx
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from hub.batch.backend import BackendUnavailableError

TIMEOUT_SECONDS = 10.0
PATCH = {"Content-Type": "application/merge-patch+json"}


class ClusterRefusalError(BackendUnavailableError):
    """The API server declines the request, mostly for want of a right, until somebody mends that. status: HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """Requests to one API server."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    @classmethod
    def connect(cls) -> Cluster:
        """The cluster that this process runs in, else the one that KUBECONFIG names."""
        configuration = Configuration()
        try:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except ConfigException:
            asyncio.run(load_kube_config(client_configuration=configuration))
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)

        def authorize(request: httpx.Request) -> None:
            # Asked for each time: the token of a service account is replaced every hour.
            for setting in asyncio.run(configuration.auth_settings()).values():
                request.headers[setting["key"]] = setting["value"]

        hooks = {"request": [authorize]}
        return cls(
            httpx.Client(base_url=str(configuration.host), verify=context, timeout=TIMEOUT_SECONDS, event_hooks=hooks)
        )

    def get(self, path: str, **query: str) -> dict[str, Any]:
        return self._request("GET", path, params=query)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._request("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """Change an object (RFC 7386); one that is not there is no error."""
        self._unless_missing("PATCH", path, json=body, headers=PATCH)

    def delete(self, path: str, **options: Any) -> None:
        """Delete an object; one that is not there is no error."""
        self._unless_missing("DELETE", path, json={"kind": "DeleteOptions", "apiVersion": "v1", **options})

    def _unless_missing(self, method: str, path: str, **arguments: Any) -> None:
        try:
            self._request(method, path, **arguments)
        except ClusterRefusalError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def _request(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            msg = f"The API server of Kubernetes does not answer ({type(error).__name__})."
            raise BackendUnavailableError(msg) from error
        if answer.is_success:
            return cast("dict[str, Any]", answer.json())
        message = f"The API server of Kubernetes answered {answer.status_code}: {answer.text[:500]}"
        # A token may just have been replaced, and a webhook or an etcd may be away.
        if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.TOO_MANY_REQUESTS} or answer.is_server_error:
            raise BackendUnavailableError(message)
        raise ClusterRefusalError(message, answer.status_code)
