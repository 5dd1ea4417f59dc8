"""The data model: what is derived, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _model

NFS = {"src": "nas:/models", "fstype": "nfs4", "writer": "gpu1"}
GPU0, GPU1 = "GPU-0000", "GPU-1111"
GPUS = {
    "gpus": [{"uuid": GPU0, "minor": 0, "memory_bytes": 24 * 2**30, "vendor": "nvidia"}, {"uuid": GPU1, "minor": 1, "memory_bytes": 24 * 2**30}],
    "nodes": [
        {"path": "/dev/nvidia0", "group": "video"},
        {"path": "/dev/nvidia1", "group": "root"},
        {"path": "/dev/nvidia2", "group": "other"},
        {"path": "/dev/nvidiactl", "group": "gpu"},
        {"path": "/dev/dri/renderD128", "group": "render"},
    ],
}
CONTROLS = ["/dev/nvidiactl rw", "/dev/nvidia-uvm rw", "/dev/nvidia-uvm-tools rw", "/dev/nvidia-modeset rw"]
NVIDIA = ["char-nvidia* rw", "char-nvidia-uvm rw", "char-nvidia-caps rw"]


def one(**options: Any) -> dict[str, Any]:
    """The one instance of a host, completed."""
    return _model.instances([{"name": "default", **options}], "10.0.0.5", "/store")[0]


def test_default_instance() -> None:
    """What an instance is when nothing is said."""
    assert one() == {
        "name": "default",
        "port": 11434,
        "address": "10.0.0.5",
        "url": "http://10.0.0.5:11434",
        "unit": "ollama@default.service",
        "gpus": "all",
        "environment": {"OLLAMA_HOST": "10.0.0.5:11434", "OLLAMA_MODELS": "/store", "OLLAMA_NO_CLOUD": "1"},
        "models": "all",
        "models_dir": "/store",
        "writer": True,
        "weight": 1,
        "backup": None,
        "memory_max": None,
        "cpu_quota": None,
        "tasks_max": None,
    }


def test_environment() -> None:
    """Options and extra variables are added to what is derived; the address always names its port."""
    found = one(environment={"num_parallel": 4, "no_cloud": False}, extra_environment={"LLAMA_ARG_THREADS": 8})["environment"]
    assert found == {
        "OLLAMA_HOST": "10.0.0.5:11434", "OLLAMA_MODELS": "/store", "OLLAMA_NO_CLOUD": "0", "OLLAMA_NUM_PARALLEL": "4", "LLAMA_ARG_THREADS": "8"
    }
    assert _model.instances([{"name": "a"}], "fd00::1")[0]["environment"]["OLLAMA_HOST"] == "[fd00::1]:11434"


def test_limits() -> None:
    found = one(memory_max="64G", cpu_quota="200", tasks_max=16)
    assert (found["memory_max"], found["cpu_quota"], found["tasks_max"]) == ("64G", 200, 16)


def test_gpus() -> None:
    """An instance sees its own GPUs, by UUID, and Vulkan finds no others."""
    assert "CUDA_VISIBLE_DEVICES" not in one()["environment"]
    assert one(gpus="none")["environment"]["CUDA_VISIBLE_DEVICES"] == "-1"
    found = one(gpus=["GPU-1a2b", "MIG-3c4d"])["environment"]
    assert (found["CUDA_VISIBLE_DEVICES"], found["GGML_VK_VISIBLE_DEVICES"]) == ("GPU-1a2b,MIG-3c4d", "-1")


def stores(items: list[dict[str, Any]], writer: bool = True) -> list[tuple[str, bool, str]]:
    """Store, whether it is written, and OLLAMA_NOPRUNE of each instance."""
    raw = [{"name": f"i{number}", "port": 11434 + number, **item} for number, item in enumerate(items)]
    found = _model.instances(raw, "10.0.0.5", "/store/", writer)
    return [(item["models_dir"], item["writer"], item["environment"].get("OLLAMA_NOPRUNE", "")) for item in found]


def test_stores() -> None:
    """Of the instances with one store the first writes; the store of a host that only reads has no writer there."""
    own = {"models_dir": "/own//models/"}
    assert stores([{}, {}, own, own]) == [("/store", True, ""), ("/store", False, "1"), ("/own/models", True, ""), ("/own/models", False, "1")]
    assert stores([{}, own], writer=False) == [("/store", False, "1"), ("/own/models", True, "")]
    assert stores([{"environment": {"noprune": True}}, {"models_dir": "/store"}]) == [("/store", True, "1"), ("/store", False, "1")]


@pytest.mark.parametrize("path", ["/usr/share/ollama/.ollama/models", "/opt/models", "/var/lib/ollama", "/srv", "/mnt/disk", "/homes", "/tmpfs/x"])
def test_possible_stores(path: str) -> None:
    assert one(models_dir=path)["models_dir"] == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("models", "give an absolute path"),
        (5, "give an absolute path"),
        ("/srv/a b", "cannot stand in a unit file"),
        ("/srv/50%", "cannot stand in a unit file"),
        ("/srv/a\n", "cannot stand in a unit file"),
        ("/srv/a'b", "cannot stand in a unit file"),
        ("/srv/a\\b", "cannot stand in a unit file"),
        ("/srv/../etc", "without . and .."),
        ("/srv/./a", "without . and .."),
        *((path, "the sandbox of the units hides") for path in ("/home/ollama/models", "/root", "/root/models", "/tmp/models", "/var/tmp/m", "/run/user/0")),
        *((path, "a directory of the system") for path in (
            "/", "//", "/etc", "/etc/ollama", "/usr/", "/bin", "/boot/m", "/dev/shm", "/proc", "/sys", "/run/m", "/var", "/var/lib", "/opt", "/opt/ollama"
        )),
    ],
)
def test_refused_stores(path: Any, message: str) -> None:
    """A store that the units could not see or that is no place for one, of a host and of an instance alike."""
    with pytest.raises(_model.ModelError, match="instance default: models_dir is .*" + message.replace(".", "[.]")):
        one(models_dir=path)
    with pytest.raises(_model.ModelError, match="ollama_models_dir is .*" + message.replace(".", "[.]")):
        _model.instances([{"name": "a"}], "10.0.0.5", path)


def test_stores_within_each_other() -> None:
    with pytest.raises(_model.ModelError, match="instance i0: models_dir is /store/a, inside /store [(]ollama_models_dir[)]: give each"):
        stores([{"models_dir": "/store/a"}])
    with pytest.raises(_model.ModelError, match="i1: models_dir is /a/b, inside /a [(]instance i0: models_dir"):
        stores([{"models_dir": "/a"}, {"models_dir": "/a/b"}])
    assert len(stores([{"models_dir": "/a"}, {"models_dir": "/ab"}])) == 2


@pytest.mark.parametrize("writer", [True, False])
def test_a_reader_never_prunes(writer: bool) -> None:
    with pytest.raises(_model.ModelError, match="instance i1: environment.noprune is false, but the writer of /store is another instance"):
        stores([{}, {"environment": {"noprune": False}}], writer)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "Team A"}, "lower-case letters"),
        ({}, "has the name None"),
        ({"name": "a", "port": 0}, "port is 0"),
        ({"name": "a", "port": "x"}, "port is 'x'"),
        ({"name": "a", "port": 70000}, "up to 65535"),
        ({"name": "a", "port": True}, "port is True"),
        ({"name": "a", "gpus": [0]}, "nvidia-smi -L"),
        ({"name": "a", "gpus": []}, "nvidia-smi -L"),
        ({"name": "a", "memory_max": "64GB"}, "such as 64G"),
        ("gpu", "give a mapping such as {name: default}"),
        ({"name": "a\n"}, "lower-case letters"),
        ({"name": "a", "prot": 1}, "unknown option prot (did you mean port?): known are name, port"),
        ({"name": "a", "port": 443}, "choose 1024 or above"),
        ({"name": "a", "gpus": None}, "nvidia-smi -L"),
        ({"name": "a", "gpus": "GPU-1a2b"}, "nvidia-smi -L"),
        ({"name": "a", "gpus": ["GPU-1a", "GPU-1a"]}, "gpus has GPU-1a twice: keep one"),
        ({"name": "a", "memory_max": 0}, "such as 64G"),
        ({"name": "a", "memory_max": "0G"}, "such as 64G"),
        ({"name": "a", "memory_max": True}, "memory_max is True"),
        ({"name": "a", "cpu_quota": 0}, "at least 1, in percent of one core"),
        ({"name": "a", "cpu_quota": "200%"}, "cpu_quota is '200%'"),
        ({"name": "a", "cpu_quota": True}, "cpu_quota is True"),
        ({"name": "a", "tasks_max": 15}, "at least 16, since with fewer threads the server dies at start"),
        ({"name": "a", "tasks_max": True}, "tasks_max is True"),
        ({"name": "a", "models": "llama3.2"}, "give all, or a list of names from ollama_models"),
        ({"name": "a", "models": None}, "give all, or a list"),
        ({"name": "a", "models": ["a b"]}, "instance a: models: 'a b' is no model name"),
        ({"name": "a", "environment": ["A=1"]}, "give a mapping such as {keep_alive: 24h}"),
        ({"name": "a", "environment": {"num_parallel": 0}}, "instance a: environment.num_parallel is 0"),
        ({"name": "a", "extra_environment": {"OLLAMA_NOPRUNE": 1}}, "instance a: extra_environment.OLLAMA_NOPRUNE has an option of its own"),
        ({"name": "a", "gpus": "none", "extra_environment": {"GGML_VK_VISIBLE_DEVICES": 0}}, "follows from the other options"),
    ],
    ids=str,
)
def test_bad_instance(item: dict[str, Any], message: str) -> None:
    """Garbage stops with the mend in the message."""
    with pytest.raises(_model.ModelError) as error:
        _model.instances([item], "10.0.0.5")
    assert message in str(error.value)


def test_clashing_instances() -> None:
    """Names and ports are unique on a host, and there is at least one instance."""
    with pytest.raises(_model.ModelError, match="both have port 11434"):
        _model.instances([{"name": "a"}, {"name": "b"}], "10.0.0.5")
    with pytest.raises(_model.ModelError, match="two instances named a"):
        _model.instances([{"name": "a"}, {"name": "a", "port": 11435}], "10.0.0.5")
    with pytest.raises(_model.ModelError, match="is empty"):
        _model.instances([], "10.0.0.5")
    with pytest.raises(_model.ModelError, match="give a list of mappings"):
        _model.instances({"name": "a"}, "10.0.0.5")


@pytest.mark.parametrize(
    ("gateways", "explicit", "default_ipv4", "expected"),
    [
        (["h"], "", "10.0.0.5", "127.0.0.1"),
        ([], "", "10.0.0.5", "127.0.0.1"),
        (["gw"], "", "10.0.0.5", "10.0.0.5"),
        (["h", "gw"], "", "10.0.0.5", "10.0.0.5"),
        (["gw"], "192.168.1.7", "10.0.0.5", "192.168.1.7"),
        (["gw"], "fd00::7", "", "fd00::7"),
        (["h"], "127.0.0.1", "", "127.0.0.1"),
    ],
)
def test_listen_address(gateways: list[str], explicit: str, default_ipv4: str, expected: str) -> None:
    """Loopback on a host that is its own only gateway, else a private address."""
    assert _model.listen_address("h", gateways, explicit, default_ipv4) == expected


@pytest.mark.parametrize(
    ("explicit", "default_ipv4", "message"),
    [("0.0.0.0", "", "every network"), ("::", "", "every network"), ("lan", "", "give an IP address"), ("", "", "no default IPv4"), ("", "8.8.8.8", "public")],
)
def test_refused_addresses(explicit: str, default_ipv4: str, message: str) -> None:
    """Never all addresses, never a public one by accident: for instances and exporters alike."""
    with pytest.raises(_model.ModelError, match=message):
        _model.listen_address("h", ["gw"], explicit, default_ipv4)
    with pytest.raises(_model.ModelError, match=message):
        _model.management_address("h", explicit, default_ipv4)


def test_loopback_where_another_gateway_asks() -> None:
    with pytest.raises(_model.ModelError, match="is 127.0.0.1, where gw cannot reach it"):
        _model.listen_address("h", ["h", "gw"], "127.0.0.1", "10.0.0.5")


def test_listeners() -> None:
    expected = {"port": 11434, "address": "10.0.0.5", "unit": "ollama@*.service", "option": "the port of instance default in ollama_instances"}
    assert _model.listeners([one()]) == [expected]


@pytest.mark.parametrize(
    ("host", "mount", "writer", "options"),
    [
        ("gpu2", {"src": "/dev/sdb1", "fstype": "ext4"}, True, "defaults"),
        ("gpu2", {"src": "/dev/sdb1", "fstype": "xfs", "opts": "noatime,rw", "writer": None}, True, "noatime,rw"),
        ("gpu1", NFS, True, "defaults,_netdev"),
        ("gpu2", NFS, False, "defaults,_netdev,ro"),
        ("gpu2", {**NFS, "opts": "rw,_netdev,hard", "fstype": "fuse.sshfs"}, False, "_netdev,hard,ro"),
        ("gpu2", {**NFS, "fstype": "ext4"}, False, "defaults,ro"),
    ],
)
def test_mount(host: str, mount: dict[str, Any], writer: bool, options: str) -> None:
    assert _model.store_writer(host, mount, ["gpu1", "gpu2"]) is writer
    assert _model.mount_options(mount, writer) == options


def test_no_mount() -> None:
    assert _model.store_writer("gpu1", {}, []) is True


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({**NFS, "writer": ""}, "has nfs4 and no writer, and two hosts that write to one store destroy each other's pulls"),
        ({"src": "//nas/models", "fstype": "cifs"}, "has cifs and no writer"),
        ({**NFS, "writer": "gpu01"}, "the writer 'gpu01', which is no host of the group ollama (did you mean gpu1?)"),
        ({**NFS, "opts": "hard,ro"}, "ro in opts"),
        ({**NFS, "src": "nas:/my models"}, "src is 'nas:/my models': give text without blanks"),
        ({**NFS, "src": ""}, "src is ''"),
        ({"fstype": "ext4"}, "src is None"),
        ({"src": "/dev/sdb1"}, "fstype is None"),
        ({**NFS, "opts": "a, b"}, "opts is 'a, b'"),
        ({**NFS, "type": "nfs"}, "unknown option type (did you mean fstype?)"),
        ("nas:/models", "give a mapping with src and fstype"),
    ],
)
def test_refused_mounts(mount: Any, message: str) -> None:
    with pytest.raises(_model.ModelError) as error:
        _model.store_writer("gpu1", mount, ["gpu1", "gpu2"])
    assert message in str(error.value)


def test_scrape_targets() -> None:
    """The management address first, then what the host is reached by; the port that the inventory gives the host."""
    hostvars = {"a": {"ollama_management_address": "10.1.0.1"}, "b": {"ansible_host": "10.0.0.2"}, "c": {"ollama_address": "c.lan", "x_port": 9200}, "d": {}}
    found = _model.scrape_targets(["a", "b", "c", "d"], hostvars, "x_port", 9100, "d", "10.1.0.4")
    assert [item["targets"] for item in found] == [["10.1.0.1:9100"], ["10.0.0.2:9100"], ["c.lan:9200"], ["10.1.0.4:9100"]]
    assert found[1]["labels"] == {"host": "b"}


def test_labels_of_scrape_targets() -> None:
    """The groups of the fleet, in one order, and what the host's own variables say; nothing that others put there."""
    hostvars = {"a": {"group_names": ["monitoring", "gpu", "gateway"], "ollama_monitoring_labels": {"team": "search", "rack": 7}}}
    [found] = _model.scrape_targets(["a"], hostvars, "x_port", 9100, "m", "10.1.0.4")
    assert found["labels"] == {"host": "a", "role": "gateway+monitoring", "team": "search", "rack": "7"}
    for wrong in ({"host": "b"}, {"a-b": 1}, {"__x": 1}, {"model": "x"}, ["team"]):
        with pytest.raises(_model.ModelError, match="ollama_monitoring_labels of a"):
            _model.scrape_targets(["a"], {"a": {"ollama_monitoring_labels": wrong}}, "x_port", 9100, "m", "10.1.0.4")


def test_the_id_changes_with_any_part_and_not_with_the_order_of_keys() -> None:
    first = _model.config_id(["x", {"a": 1, "b": 2}])
    assert len(first) == 16
    assert first == _model.config_id(["x", {"b": 2, "a": 1}])
    assert first != _model.config_id(["x", {"a": 1, "b": 3}])
    assert first != _model.config_id(["y", {"a": 1, "b": 2}])


def test_service_units() -> None:
    """The id changes with the shared parts, the environment and the limits, and with nothing else."""
    def ids(parts: list[Any], **options: Any) -> str:
        return _model.service_units([one(**options)], parts)[0]["config_id"]

    base = ids(["0.34.4"])
    assert base == ids(["0.34.4"], models=["a"])
    options: list[dict[str, Any]] = [
        {"memory_max": "1G"}, {"cpu_quota": 100}, {"tasks_max": 99}, {"environment": {"num_parallel": 2}}, {"gpus": "none"}, {"models_dir": "/own"}
    ]
    assert len({base, ids(["0.34.5"]), *(ids(["0.34.4"], **option) for option in options)}) == 8
    more = _model.service_units([one()], ["0.34.4"], GPUS)[0]
    other_group = _model.service_units([one()], ["0.34.4"], {**GPUS, "nodes": GPUS["nodes"][1:]})[0]
    reader = _model.service_units([{**one(), "writer": False}], ["0.34.4"])[0]
    assert len({base, more["config_id"], other_group["config_id"], reader["config_id"]}) == 4


@pytest.mark.parametrize(
    ("wanted", "gpus", "rules", "groups"),
    [
        ("none", GPUS, [], []),
        ("all", {}, [*CONTROLS, "/dev/kfd rw", *NVIDIA, "char-drm rw", "char-kfd rw"], []),
        (
            "all", GPUS,
            [*CONTROLS, "/dev/kfd rw", "/dev/nvidia0 rw", "/dev/nvidia1 rw", "/dev/nvidia2 rw", *NVIDIA, "char-drm rw", "char-kfd rw"],
            ["gpu", "other", "render", "video"],
        ),
        # the minor of an AMD card is the number of its render node
        ("all", {"gpus": [{"uuid": "", "minor": 128, "vendor": "amd"}]}, [*CONTROLS, "/dev/kfd rw", *NVIDIA, "char-drm rw", "char-kfd rw"], []),
        ([GPU0], GPUS, [*CONTROLS, "/dev/nvidia0 rw"], ["gpu", "video"]),
        ([GPU1], GPUS, [*CONTROLS, "/dev/nvidia1 rw"], ["gpu"]),
        ([GPU0], {}, CONTROLS, []),
        (["MIG-2222"], {}, [*CONTROLS, *NVIDIA], []),
        ([GPU0, "MIG-2222"], GPUS, [*CONTROLS, "/dev/nvidia0 rw", "/dev/nvidia1 rw", "/dev/nvidia2 rw", *NVIDIA], ["gpu", "other", "video"]),
        # a card whose UUID the driver does not tell yet
        ([GPU0], {"gpus": [{"uuid": "", "minor": 0}]}, [*CONTROLS, "/dev/nvidia0 rw", *NVIDIA], []),
    ],
    ids=str,
)
def test_devices(wanted: Any, gpus: dict[str, Any], rules: list[str], groups: list[str]) -> None:
    """An instance may open its own nodes; missing ones are named all the same."""
    found = _model.service_units([one(gpus=wanted)], [], gpus)[0]
    assert found["device_rules"] == rules
    assert found["device_groups"] == groups


def test_gpu_that_the_host_has_not() -> None:
    with pytest.raises(_model.ModelError, match="instance default: gpus has GPU-9, which the host does not have: give some of GPU-0000, GPU-1111"):
        _model.service_units([one(gpus=[GPU0, "GPU-9"])], [], GPUS)
