"""Enforces NetworkPolicies in the test cluster of one node: keeps a table of nftables in step with the API server.

    netpol_sync.py STATE        STATE is the folder of `up`

Its network is a bridge, whose packets pass the hooks of IP (`net.bridge.bridge-nf-call-iptables`) after kube-proxy has
put the pod's address in place of the Service's. The hooks see what pods send to pods and to the node; what the node
itself sends (probes of the kubelet, processes of tests) they do not, so it is free. A refused packet is dropped, not
answered: a peer that this program has not seen yet gets through with its second attempt. Only Python's own library is
used, for `up` has no other.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TABLE = "netpol"
KINDS = {
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
}
WATCH_SECONDS = 300
RETRY_SECONDS = 1.0
HEAD = f"""\
table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain forward {{ type filter hook forward priority -1; ct state established,related accept; jump pods; }}
  chain input {{ type filter hook input priority -1; ct state established,related accept; jump pods; }}
"""

Object = dict[str, Any]
# Names are resolved by a process of the node. For policies it is what it is in other clusters, pods of kube-dns.
DNS: Object = {
    "metadata": {"namespace": "kube-system", "name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
    "spec": {},
    "status": {"podIP": "10.244.0.1"},
}


@dataclass(frozen=True)
class Direction:
    """What a policy says of one direction, in its words and in those of nftables."""

    name: str
    peers: str
    peer_address: str
    own_address: str


DIRECTIONS = (Direction("egress", "to", "daddr", "saddr"), Direction("ingress", "from", "saddr", "daddr"))


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector takes an object with these labels; an empty one takes all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    tests: dict[str, Callable[[str, list[str]], bool]] = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    return all(
        tests[one["operator"]](one["key"], one.get("values", [])) for one in selector.get("matchExpressions", [])
    )


def ruleset(policies: Iterable[Object], pods: Iterable[Object], namespaces: Iterable[Object]) -> str:
    """The table of nftables, in the words of `nft -f`, that does what the policies say."""
    cluster = Rules(
        {_address(one): one for one in sorted([*pods, DNS], key=_name) if _is_on_the_network(one)},
        {one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in namespaces},
    )
    by_name = sorted(policies, key=_name)
    chains, jumps = [], []
    for direction in DIRECTIONS:
        closed = {
            address: list(cluster.chain(pod, binding, direction))
            for address, pod in cluster.pods.items()
            if (binding := [one for one in by_name if _binds(one, pod, direction)])
        }
        chains += [f"  chain {direction.name}-{address} {{ {'; '.join(rules)}; }}" for address, rules in closed.items()]
        if closed:
            verdicts = ", ".join(f"{address} : jump {direction.name}-{address}" for address in closed)
            jumps.append(f"ip {direction.own_address} vmap {{ {verdicts} }};")
    return "\n".join([HEAD, *chains, f"  chain pods {{ {' '.join(jumps)} }}", "}\n"])


@dataclass(frozen=True)
class Rules:
    """The pods by address and the namespaces' labels that policies speak of."""

    pods: dict[str, Object]
    namespaces: dict[str, dict[str, str]]

    def chain(self, pod: Object, policies: list[Object], direction: Direction) -> Iterator[str]:
        """The rules of a closed pod: each road that some policy opens, then the end."""
        # A pod cannot be closed to itself.
        yield f"ip {direction.peer_address} {_address(pod)} return"
        for policy in policies:
            for rule in policy["spec"].get(direction.name) or []:
                yield from self._roads(rule, policy["metadata"]["namespace"], pod, direction)
        yield "drop"

    def _roads(self, rule: Object, namespace: str, pod: Object, direction: Direction) -> Iterator[str]:
        peers = rule.get(direction.peers)
        matches = [match for peer in peers for match in self._peer(peer, namespace, direction)] if peers else [""]
        for match in matches:
            for port in rule.get("ports") or [None]:
                for protocol in [""] if port is None else self._ports(port, match, pod, direction):
                    yield " ".join(filter(None, [match, protocol, "return"]))

    def _peer(self, peer: Object, namespace: str, direction: Direction) -> list[str]:
        """What matches a peer: one word for each address, or none where it has no pod."""
        where = f"ip {direction.peer_address}"
        if block := peer.get("ipBlock"):
            # The pods' network is of IPv4 alone.
            if ":" in block["cidr"]:
                return []
            return [" ".join([f"{where} {block['cidr']}", *(f"{where} != {one}" for one in block.get("except", []))])]
        return [f"{where} {address}" for address, pod in self.pods.items() if self._is_peer(peer, namespace, pod)]

    def _is_peer(self, peer: Object, namespace: str, pod: Object) -> bool:
        its_namespace = pod["metadata"]["namespace"]
        if "namespaceSelector" in peer:
            near = selects(peer["namespaceSelector"], self.namespaces.get(its_namespace, {}))
        else:
            near = its_namespace == namespace
        return near and selects(peer.get("podSelector", {}), pod["metadata"].get("labels", {}))

    def _ports(self, port: Object, match: str, pod: Object, direction: Direction) -> list[str]:
        """What matches a port of a policy; the name of a port is looked up in the pod that is reached."""
        protocol = port.get("protocol", "TCP")
        number = port.get("port")
        if number is None:
            return [f"ip protocol {protocol.lower()}"]
        if isinstance(number, str):
            reached = pod if direction.name == "ingress" else self.pods.get(match.rpartition(" ")[2], {})
            containers = reached.get("spec", {}).get("containers", [])
            declared = [one for container in containers for one in container.get("ports", [])]
            numbers = [
                str(one["containerPort"])
                for one in declared
                if one.get("name") == number and one.get("protocol", "TCP") == protocol
            ]
        else:
            numbers = [f"{number}-{port['endPort']}" if "endPort" in port else str(number)]
        return [f"{protocol.lower()} dport {one}" for one in numbers]


def _name(one: Object) -> tuple[str, str]:
    return one["metadata"]["namespace"], one["metadata"]["name"]


def _address(pod: Object) -> str:
    address: str = pod["status"]["podIP"]
    return address


def _is_on_the_network(pod: Object) -> bool:
    """A pod that has ended has given its address back."""
    status = pod.get("status", {})
    ended = status.get("phase") in {"Succeeded", "Failed"}
    return bool(status.get("podIP")) and not ended and not pod["spec"].get("hostNetwork")


def _binds(policy: Object, pod: Object, direction: Direction) -> bool:
    return (
        policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and direction.name.capitalize() in policy["spec"].get("policyTypes", [])
        and selects(policy["spec"].get("podSelector", {}), pod["metadata"].get("labels", {}))
    )


class Watched:
    """The API server's objects of one kind, kept up to date by a thread."""

    def __init__(self, pki: Path, path: str, changed: threading.Event) -> None:
        self._path = path
        self._changed = changed
        self._tls = ssl.create_default_context(cafile=pki / "ca.crt")
        self._tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self._objects: dict[str, Object] | None = None
        threading.Thread(target=self._follow, daemon=True).start()

    def known(self) -> list[Object] | None:
        """The objects, or None before the first answer."""
        return None if self._objects is None else list(self._objects.values())

    def _follow(self) -> None:
        while True:
            try:
                listed = json.load(self._get(""))
                self._objects = {one["metadata"]["uid"]: one for one in listed["items"]}
                self._changed.set()
                self._watch(listed["metadata"]["resourceVersion"])
            except (OSError, http.client.HTTPException, ValueError) as error:
                _say(f"{self._path}: {error!r}")
                time.sleep(RETRY_SECONDS)

    def _watch(self, version: str) -> None:
        """Follow the changes until the API server ends the watch; its reasons are no matter, for all is listed anew."""
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        for line in self._get(query):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            assert self._objects is not None
            uid = event["object"]["metadata"]["uid"]
            # Another dictionary, for the other thread may be reading this one.
            others = {key: one for key, one in self._objects.items() if key != uid}
            self._objects = others if event["type"] == "DELETED" else {**others, uid: event["object"]}
            self._changed.set()

    def _get(self, query: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection("127.0.0.1", 6443, context=self._tls, timeout=WATCH_SECONDS + 30)
        connection.request("GET", self._path + query)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"status {answer.status}")
        return answer


def main(state: Path) -> None:
    """Write the rules whenever they change, for ever."""
    changed = threading.Event()
    watched = {name: Watched(state / "pki", path, changed) for name, path in KINDS.items()}
    written = ""
    while True:
        changed.wait()
        changed.clear()
        known = {name: one.known() for name, one in watched.items()}
        if any(one is None for one in known.values()):
            continue
        rules = ruleset(**{name: one or [] for name, one in known.items()})
        if rules == written:
            continue
        done = subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False)
        if done.returncode:
            _say(f"{done.stderr}\n{rules}")
            time.sleep(RETRY_SECONDS)
            changed.set()
        else:
            written = rules


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
