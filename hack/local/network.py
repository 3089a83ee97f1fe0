"""The box's network on this machine: a bridge with the address that everything listens on, and packet filter rules.

What the machine was like before is written down first; `down` puts that back, touching only what came with the box:
rules of chains named KUBE-*, rules that jump there or carry our comment, two bridges, some kernel settings.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from hack.local import assets
from hack.local.console import run
from hack.local.controlplane import ADDRESS, ControlPlane
from hack.local.nodeconfig import BINDS, POD_BRIDGE, POD_NETWORK
from hack.local.process import BoxError, Daemons

BRIDGE = "kube0"
COMMENT = "aks-in-a-box"
FAMILIES = ("iptables", "ip6tables")

# Kernel settings that kubelet, kube-proxy and we change.
SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)

Rules = Mapping[str, "Table"]


@dataclass(frozen=True)
class Table:
    """One table of a packet filter: its chains, and its rules as iptables-save writes them (`-A CHAIN …`)."""

    chains: tuple[str, ...]
    rules: tuple[str, ...]


def up(folder: Path) -> None:
    """Make the bridge and let pods be routed. Safe to repeat."""
    if owner := other_owner(folder):
        raise BoxError(f"another box is up, with its state in {owner}: take it down first")
    _record_once(folder)
    if not _link_exists(BRIDGE):
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "link", "set", BRIDGE, "alias", str(folder.resolve()))  # whose it is, for other boxes
    run("ip", "address", "replace", f"{ADDRESS}/32", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    _setting("net/ipv4/ip_forward").write_text("1")
    present = run("iptables", "--list-rules", "FORWARD").splitlines()
    for rule in _own_rules():
        if rule not in present:
            run("iptables", *rule.split())


def start_proxy(plane: ControlPlane, node: str) -> None:
    """kube-proxy for the whole machine: cluster addresses answer from the host and from every pod."""
    kubeconfig = plane.kubeconfig_for("kube-proxy", "system:kube-proxy")
    config = plane.folder / "kube-proxy.yaml"
    config.write_text(yaml.safe_dump(proxy_config(kubeconfig, node)))
    Daemons(plane.folder).start("kube-proxy", [assets.hyperkube(), "kube-proxy", "--config", config])


def down(folder: Path) -> None:
    """Put back what `up` and the kubelets changed. Everything that could change it again must have ended."""
    Daemons(folder).stop("kube-proxy")
    record = _record(folder)
    if not record.exists():
        return
    before = json.loads(record.read_text())
    for family in FAMILIES:
        restore = restoring_script(parse_rules(before["rules"][family]), parse_rules(_save(family)))
        if restore:
            run(f"{family}-restore", "--noflush", stdin=restore)
    for bridge in (BRIDGE, POD_BRIDGE):
        if _link_exists(bridge):
            run("ip", "link", "delete", bridge)
    for name, value in settings_in_force().items():
        if name in before["settings"] and before["settings"][name] != value:
            _setting(name).write_text(before["settings"][name])
    for created in reversed(before["missing_folders"]):
        if Path(created).is_dir() and not any(Path(created).iterdir()):
            Path(created).rmdir()
    record.unlink()


def other_owner(folder: Path) -> str:
    """The run folder of another box whose bridge exists; empty when there is none, or it is this box's."""
    if not _link_exists(BRIDGE) or _record(folder).exists():
        return ""
    alias = Path(f"/sys/class/net/{BRIDGE}/ifalias").read_text().strip()
    return alias or "a folder that it does not name"


def proxy_config(kubeconfig: Path, node: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": node,
        "healthzBindAddress": "",
        "metricsBindAddress": "",
        # Pods of one bridge answer each other past the packet filter; only a masqueraded request returns through it.
        "iptables": {"masqueradeAll": True},
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def parse_rules(saved: str) -> dict[str, Table]:
    """Read the output of iptables-save, without its counters and comments."""
    chains: dict[str, list[str]] = {}
    rules: dict[str, list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
            chains[table], rules[table] = [], []
        elif line.startswith(":"):
            chains[table].append(line[1:].split()[0])
        elif line.startswith("-A"):
            rules[table].append(line)
    return {name: Table(tuple(chains[name]), tuple(rules[name])) for name in chains}


def restoring_script(before: Rules, now: Rules) -> str:
    """What iptables-restore --noflush must be told to remove what is ours and was not there before."""
    lines: list[str] = []
    for name, table in now.items():
        old = before.get(name, Table((), ()))
        chains = [chain for chain in table.chains if _is_kubernetes(chain) and chain not in old.chains]
        jumps = [
            rule for rule in table.rules if _is_ours(rule) and rule not in old.rules and rule.split()[1] not in chains
        ]
        if chains or jumps:
            lines += [f"*{name}", *(f":{chain} - [0:0]" for chain in chains)]  # naming a chain empties it
            lines += [*(f"-D{rule[2:]}" for rule in jumps), *(f"-X {chain}" for chain in chains), "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def rules_in_force() -> set[str]:
    """Every rule and every chain beyond the built-in ones, of both families; for comparing before and after."""
    found = set()
    for family in FAMILIES:
        for name, table in parse_rules(_save(family)).items():
            own = [f":{chain}" for chain in table.chains if not chain.isupper() or "-" in chain]
            found |= {f"{family} {name} {entry}" for entry in (*own, *table.rules)}
    return found


def settings_in_force() -> dict[str, str]:
    """Kernel settings that exist on this machine; some come only with a kernel module."""
    return {name: _setting(name).read_text().strip() for name in SETTINGS if _setting(name).exists()}


def node_folders() -> list[Path]:
    """Folders of the machine on which nodes mount their own, with those above them, outermost first."""
    wanted = (Path(target) for target in BINDS.values())
    return list(dict.fromkeys(path for target in wanted for path in (*reversed(target.parents), target)))


def _own_rules() -> Iterable[str]:
    """Where the machine forwards nothing by itself (Docker sets it so), pods must be let through."""
    for direction in ("-i", "-o"):
        yield f"-A FORWARD {direction} {POD_BRIDGE} -m comment --comment {COMMENT} -j ACCEPT"


def _is_kubernetes(chain: str) -> bool:
    return chain.startswith("KUBE-")


def _is_ours(rule: str) -> bool:
    return bool(re.search(rf"-[jg] KUBE-|--comment \"?{COMMENT}\"?( |$)", rule))


def _record_once(folder: Path) -> None:
    """Write down the state before; a record that is there already is of a run that was not undone, and stays true."""
    record = _record(folder)
    if record.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    missing = [path for path in node_folders() if not path.exists()]
    before = {
        "rules": {family: _save(family) for family in FAMILIES},
        "settings": settings_in_force(),
        "missing_folders": [str(path) for path in missing],
    }
    unfinished = record.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(before))
    unfinished.rename(record)


def _record(folder: Path) -> Path:
    return folder / "network-before.json"


def _save(family: str) -> str:
    return run(f"{family}-save")


def _link_exists(name: str) -> bool:
    return Path(f"/sys/class/net/{name}").exists()


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name
