#!/usr/bin/env python3
"""deploy/k8s: every overlay is rendered by a real kubectl, every object follows its Kubernetes schema (unknown fields are
errors), and what names something else names something that is there."""
import pathlib
import re
import subprocess
import sys
import unittest

import jsonschema
import kubernetes_validate
import yaml

REPO = pathlib.Path(__file__).resolve().parents[2]
K8S = REPO / "deploy" / "k8s"
KUBECTL = pathlib.Path(sys.executable).parent / "kubectl"
VERSIONS = ("1.31", "1.37")  # the oldest that we mean, and the newest that the schemas know
PROGRAMS = {
    "gateway": ("gateway/tessera_gateway", "TESSERA_GATEWAY_"),
    "worker": ("gpu_worker/tessera_worker", "TESSERA_WORKER_"),
    "cache": ("cache_server/tessera_cache_server", "TESSERA_CACHE_"),
}
NAME = "app.kubernetes.io/name"

# What we use of the operator's custom resource; Kubernetes itself has no schema of it.
SERVICE_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["selector", "endpoints"],
            "additionalProperties": False,
            "properties": {
                "jobLabel": {"type": "string"},
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string"},
                            "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                        },
                    },
                },
            },
        },
    },
}


def render(folder):
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    if done.returncode or done.stderr:
        raise AssertionError(f"kubectl kustomize {folder}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def overlays():
    return sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yml"))


def check_schema(thing, version=VERSIONS[-1]):
    """Raises when the object is not what its kind takes."""
    if thing["kind"] == "ServiceMonitor":
        jsonschema.validate(thing, SERVICE_MONITOR)
    else:
        kubernetes_validate.validate(thing, version, strict=True)


def options_of(program):
    """Names from --help."""
    shown = subprocess.run([REPO / "bazel-bin" / program, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"^  --(\w+)", shown.stdout, re.MULTILINE))


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


class Rendered:
    """One overlay's objects."""

    def __init__(self, overlay):
        self.objects = render(K8S / "overlays" / overlay)

    def all(self, *kinds):
        return [thing for thing in self.objects if thing["kind"] in kinds]

    def pods(self):
        """-> {name: pod template} of what runs."""
        return {w["metadata"]["name"]: w["spec"]["template"] for w in self.all("Deployment", "StatefulSet")}

    def selected(self, selector):
        return {n: pod for n, pod in self.pods().items() if selects(selector, pod["metadata"]["labels"])}


def ports_of(pod):
    return {port["name"]: port["containerPort"] for c in pod["spec"]["containers"] for port in c["ports"]}


class K8sTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rendered = {overlay: Rendered(overlay) for overlay in overlays()}

    def each(self):
        return self.rendered.values()

    def each_container(self):
        """Name, pod and container; every pod of ours has one."""
        for rendered in self.each():
            for name, pod in rendered.pods().items():
                (container,) = pod["spec"]["containers"]
                yield name, pod["spec"], container

    def test_overlays_are_there(self):
        self.assertEqual(list(self.rendered), ["cpu", "gpu"])

    def test_objects_follow_their_schemas(self):
        for rendered in self.each():
            for thing in rendered.objects:
                for version in VERSIONS:
                    with self.subTest(kind=thing["kind"], name=thing["metadata"]["name"], version=version):
                        check_schema(thing, version)

    def test_the_pod_that_fills_the_claim(self):
        (pod,) = yaml.safe_load_all((K8S / "fill_model.yml").read_text())
        check_schema(pod)
        (volume,) = pod["spec"]["volumes"]
        for rendered in self.each():
            (claim,) = rendered.all("PersistentVolumeClaim")
            self.assertEqual(volume["persistentVolumeClaim"]["claimName"], claim["metadata"]["name"])
            self.assertEqual(pod["metadata"]["namespace"], claim["metadata"]["namespace"])

    def test_a_wrong_field_is_seen(self):
        """Of every kind that we have, at the top of its spec."""
        kinds = {thing["kind"]: thing for r in self.rendered.values() for thing in r.objects}
        self.assertGreater(len(kinds), 8)
        for kind, thing in kinds.items():
            with self.subTest(kind=kind):
                wrong = {**thing, "spec": {**thing.get("spec", {}), "replicsa": 1}}
                with self.assertRaises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
                    check_schema(wrong)

    def test_services_select_pods_and_ports(self):
        for rendered in self.each():
            services = rendered.all("Service")
            self.assertEqual({s["metadata"]["name"] for s in services}, set(PROGRAMS))
            for service in services:
                pods = rendered.selected({"matchLabels": service["spec"]["selector"]})
                self.assertEqual(list(pods), [service["metadata"]["name"]])
                ports = ports_of(pods[service["metadata"]["name"]])
                for port in service["spec"]["ports"]:
                    self.assertEqual(port["port"], ports[port["targetPort"]])
            for workload in rendered.all("Deployment", "StatefulSet"):
                labels = workload["spec"]["template"]["metadata"]["labels"]
                self.assertTrue(selects(workload["spec"]["selector"], labels))
            for stateful in rendered.all("StatefulSet"):
                self.assertIn(stateful["spec"]["serviceName"], [s["metadata"]["name"] for s in services])

    def test_addresses_in_options_are_services(self):
        """--workers=worker:7601 and its like."""
        for rendered in self.each():
            open_ports = {
                f"{s['metadata']['name']}:{port['port']}"
                for s in rendered.all("Service")
                for port in s["spec"]["ports"]
            }
            named = [
                arg.partition("=")[2]
                for pod in rendered.pods().values()
                for arg in pod["spec"]["containers"][0]["args"]
                if re.match(r"--(workers|cache)=", arg)
            ]
            self.assertEqual(len(named), 3)
            self.assertLessEqual(set(named), open_ports)

    def test_options_exist(self):
        for name, _, container in self.each_container():
            program, prefix = PROGRAMS[name]
            known = options_of(program)
            for arg in container["args"]:
                self.assertIn(re.fullmatch(r"--(\w+)=.+", arg)[1], known)
            for variable in container.get("env", []):
                self.assertTrue(variable["name"].startswith(prefix), variable)
                self.assertIn(variable["name"][len(prefix):].lower(), known)

    def test_values_of_options_are_right(self):
        """The program itself reads them, with those that the images set."""
        for name, _, container in self.each_container():
            program, prefix = PROGRAMS[name]
            given = {v["name"]: v.get("value", "4") for v in container.get("env", [])}
            required = {prefix + "MODEL": "/model"} if name == "worker" else {}
            done = subprocess.run(
                [REPO / "bazel-bin" / program, *container["args"], "--print-config"],
                env={**required, **given},
                capture_output=True,
                text=True,
            )
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_probes_ask_ports_that_are_there(self):
        for _, spec, container in self.each_container():
            ports = ports_of({"spec": spec})
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container[kind]
                if "grpc" in probe:
                    self.assertEqual(probe["grpc"]["port"], ports["grpc"])
                else:
                    self.assertIn(probe["httpGet"]["port"], ports)

    def test_pods_are_restricted(self):
        """As the namespace asks for (pod-security.kubernetes.io/enforce: restricted)."""
        for _, spec, container in self.each_container():
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual(spec["securityContext"]["runAsUser"], 10001)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse(spec["automountServiceAccountToken"])
            # Kubernetes would put TESSERA_... variables for services of such names into the environment.
            self.assertFalse(spec["enableServiceLinks"])
            self.assertEqual(
                container["securityContext"],
                {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            )
            self.assertIn("memory", container["resources"]["limits"])
            self.assertEqual(len(spec["topologySpreadConstraints"]), 1)

    def test_mounts_have_volumes(self):
        for rendered in self.each():
            claims = {claim["metadata"]["name"] for claim in rendered.all("PersistentVolumeClaim")}
            templates = {
                s["metadata"]["name"]: [c["metadata"]["name"] for c in s["spec"]["volumeClaimTemplates"]]
                for s in rendered.all("StatefulSet")
            }
            for name, pod in rendered.pods().items():
                volumes = {v["name"]: v for v in pod["spec"].get("volumes", [])}
                for mount in pod["spec"]["containers"][0]["volumeMounts"]:
                    self.assertIn(mount["name"], [*volumes, *templates.get(name, [])])
                for volume in volumes.values():
                    if "persistentVolumeClaim" in volume:
                        self.assertIn(volume["persistentVolumeClaim"]["claimName"], claims)

    def test_pods_have_time_to_drain(self):
        for name, spec, container in self.each_container():
            options = dict(arg[2:].split("=", 1) for arg in container["args"])
            wait = int(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0, "0"])[1])
            drain = {"gateway": options.get("drain_timeout"), "cache": options.get("stop_grace")}.get(name) or "1s"
            self.assertGreater(spec["terminationGracePeriodSeconds"], wait + int(drain.rstrip("s")), name)

    def test_autoscaler(self):
        for rendered in self.each():
            (scaler,) = rendered.all("HorizontalPodAutoscaler")
            target = scaler["spec"]["scaleTargetRef"]
            (found,) = [w for w in rendered.all(target["kind"]) if w["metadata"]["name"] == target["name"]]
            self.assertNotIn("replicas", found["spec"], "every apply would undo the autoscaler")
            adapter = yaml.safe_load((K8S / "prometheus-adapter.yml").read_text())
            offered = {rule["name"]["as"] for rule in adapter["rules"]["custom"]}
            asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}
            self.assertLessEqual(asked, offered)
            # The page of all metrics, which another test holds against running programs.
            metrics = (REPO / "deploy" / "METRICS.md").read_text()
            for rule in adapter["rules"]["custom"]:
                self.assertIn(f"`{rule['seriesQuery'].partition('{')[0]}`", metrics)

    def test_every_workload_has_a_disruption_budget(self):
        for rendered in self.each():
            budgets = rendered.all("PodDisruptionBudget")
            covered = [name for b in budgets for name in rendered.selected(b["spec"]["selector"])]
            self.assertEqual(sorted(covered), sorted(PROGRAMS))

    def test_network_policies(self):
        """Selectors meet pods, ports are open there, and who calls whom may do so at both ends."""
        for rendered in self.each():
            allowed = set()
            for policy in rendered.all("NetworkPolicy"):
                targets = rendered.selected(policy["spec"]["podSelector"])
                self.assertTrue(targets, policy["metadata"]["name"])
                for rule in policy["spec"].get("ingress", []):
                    allowed |= self.ingress(rendered, targets, rule)
                for rule in policy["spec"].get("egress", []):
                    allowed |= self.egress(rendered, targets, rule)
            calls = {("gateway", "worker", 7601), ("gateway", "cache", 7600), ("worker", "cache", 7600)}
            outside = {("anywhere", "gateway", 8000), ("prometheus", "worker", 7603), ("prometheus", "cache", 7602)}
            self.assertEqual(self.ways(allowed, "ingress"), calls | outside)
            self.assertEqual(self.ways(allowed, "egress"), calls)
            (closed,) = [p for p in rendered.all("NetworkPolicy") if p["metadata"]["name"] == "default-deny"]
            self.assertEqual(closed["spec"], {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})

    @staticmethod
    def ways(allowed, direction):
        return {tuple(rest) for way, *rest in allowed if way == direction}

    def ingress(self, rendered, targets, rule):
        sources = set()
        for peer in rule.get("from", [None]):
            if peer is None:
                sources.add("anywhere")
            elif "namespaceSelector" in peer:
                sources.add(peer["podSelector"]["matchLabels"][NAME])
            else:
                found = rendered.selected(peer["podSelector"])
                self.assertTrue(found, peer)
                sources |= set(found)
        return {
            ("ingress", source, name, ports_of(pod)[port["port"]])
            for source in sources
            for name, pod in targets.items()
            for port in rule["ports"]
        }

    def egress(self, rendered, targets, rule):
        """Without those to name servers, which are not ours."""
        peers = {n: p for peer in rule["to"] for n, p in rendered.selected(peer.get("podSelector", {NAME: 0})).items()}
        if any("namespaceSelector" in peer for peer in rule["to"]):
            self.assertEqual({(port["protocol"], port["port"]) for port in rule["ports"]}, {("UDP", 53), ("TCP", 53)})
            return set()
        self.assertTrue(peers, rule)
        for port in rule["ports"]:
            for pod in peers.values():
                self.assertIn(port["port"], ports_of(pod).values())
        return {("egress", source, peer, port["port"]) for source in targets for peer in peers for port in rule["ports"]}

    def test_service_monitors(self):
        for rendered in self.each():
            jobs = set()
            for monitor in rendered.all("ServiceMonitor"):
                services = [
                    s for s in rendered.all("Service") if selects(monitor["spec"]["selector"], s["metadata"]["labels"])
                ]
                self.assertEqual(len(services), 1, monitor["metadata"]["name"])
                names = [port["name"] for port in services[0]["spec"]["ports"]]
                for endpoint in monitor["spec"]["endpoints"]:
                    self.assertIn(endpoint["port"], names)
                jobs.add(services[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]])
            scraped = yaml.safe_load((REPO / "deploy" / "prometheus" / "prometheus.compose.yml").read_text())
            self.assertEqual(jobs, {scrape["job_name"] for scrape in scraped["scrape_configs"]})

    def test_images_come_from_the_overlay(self):
        for rendered in self.each():
            for pod in rendered.pods().values():
                self.assertTrue(pod["spec"]["containers"][0]["image"].startswith("registry.example.com/tessera/"))

    def test_cards(self):
        for overlay, cards in (("cpu", None), ("gpu", "1")):
            limits = self.rendered[overlay].pods()["worker"]["spec"]["containers"][0]["resources"]["limits"]
            self.assertEqual(limits.get("nvidia.com/gpu"), cards)


if __name__ == "__main__":
    if not all((REPO / "bazel-bin" / program).exists() for program, _ in PROGRAMS.values()):
        print("SKIP: the programs are not built")
        sys.exit(77)
    unittest.main(verbosity=2)
