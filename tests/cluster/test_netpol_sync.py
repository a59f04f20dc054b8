"""What the test cluster's network makes of policies, rule by rule; that it enforces them the chart's own show."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.netpol_sync import ruleset

NAMESPACES = [{"metadata": {"name": name, "labels": {"team": name}}} for name in ("red", "blue")]


def pod(name: str, namespace: str, address: str, **changes: Any) -> dict[str, Any]:
    port = {"name": "http", "containerPort": 8080}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [{"ports": [port]}]} | changes.get("spec", {}),
        "status": {"podIP": address, "phase": changes.get("phase", "Running")},
    }


PODS = [pod("web", "red", "10.0.0.1"), pod("db", "red", "10.0.0.2"), pod("web", "blue", "10.0.0.3")]
WEB = {"matchLabels": {"app": "web"}}
DB = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]}


def policy(**spec: Any) -> dict[str, Any]:
    types = [name.capitalize() for name in ("ingress", "egress") if name in spec]
    chosen = {"podSelector": DB, "policyTypes": types} | spec
    return {"metadata": {"name": "policy", "namespace": "red"}, "spec": chosen}


def rules(*policies: dict[str, Any], direction: str = "ingress", pods: list[dict[str, Any]] = PODS) -> list[str]:
    """The rules of the pod `db`, without the one for itself; none where it is not closed."""
    text = ruleset(policies, pods, NAMESPACES)
    (chain,) = [line for line in text.splitlines() if line.startswith(f"  chain {direction}-10.0.0.2 ")] or [""]
    return chain.rstrip(" }").partition("{ ")[2].removesuffix(";").split("; ")[1:]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, ["return"]),
        ({"from": [{"podSelector": WEB}]}, ["ip saddr 10.0.0.1 return"]),
        (
            {"from": [{"podSelector": WEB, "namespaceSelector": {}}]},
            ["ip saddr 10.0.0.3 return", "ip saddr 10.0.0.1 return"],
        ),
        ({"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}, ["ip saddr 10.0.0.3 return"]),
        ({"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}, []),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}}]},
            ["ip saddr 10.0.0.1 return"],
        ),
        ({"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}]}, []),
        (
            {
                "from": [
                    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "169.254.0.0/16"]}},
                    {"ipBlock": {"cidr": "::/0"}},
                ]
            },
            ["ip saddr 0.0.0.0/0 ip saddr != 10.0.0.0/8 ip saddr != 169.254.0.0/16 return"],
        ),
        (
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": "http"}]},
            ["udp dport 53 return", "tcp dport 8080 return"],
        ),
        ({"ports": [{"port": "unknown"}]}, []),
        (
            {"ports": [{"port": 1000, "endPort": 2000}, {"protocol": "UDP"}]},
            ["tcp dport 1000-2000 return", "ip protocol udp return"],
        ),
    ],
)
def test_each_road_that_a_policy_opens_is_a_rule(rule: dict[str, Any], expected: list[str]) -> None:
    assert rules(policy(ingress=[rule])) == [*expected, "drop"]


def test_policies_add_up_and_bind_what_they_select_in_their_direction_only() -> None:
    both = [policy(ingress=[{"ports": [{"port": 1}]}]), policy(ingress=[{"ports": [{"port": 2}]}])]
    assert rules(*both) == ["tcp dport 1 return", "tcp dport 2 return", "drop"]
    assert rules(policy(ingress=[])) == ["drop"]
    assert rules(policy(ingress=[]), direction="egress") == []
    assert rules(policy(ingress=[], podSelector=WEB)) == []
    assert "10.0.0.3" not in ruleset([policy(ingress=[], podSelector={})], PODS, NAMESPACES)


def test_the_name_of_a_port_is_looked_up_in_the_pod_that_is_reached() -> None:
    to_web = policy(egress=[{"to": [{"podSelector": WEB}], "ports": [{"port": "http"}]}])
    assert rules(to_web, direction="egress") == ["ip daddr 10.0.0.1 tcp dport 8080 return", "drop"]


def test_an_address_that_a_pod_has_given_back_is_nobodys() -> None:
    from_web = policy(ingress=[{"from": [{"podSelector": WEB}]}])
    for changes in ({"phase": "Succeeded"}, {"spec": {"hostNetwork": True}}):
        assert rules(from_web, pods=[pod("web", "red", "10.0.0.1", **changes), PODS[1]]) == ["drop"]


def test_names_are_resolved_where_pods_of_kube_dns_would_be() -> None:
    to_dns = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    found = rules(policy(egress=[{"to": [to_dns], "ports": [{"port": 53, "protocol": "UDP"}]}]), direction="egress")
    assert found == ["ip daddr 10.244.0.1 udp dport 53 return", "drop"]
