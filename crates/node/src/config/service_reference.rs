//! The tables of [`service`](super::service) described.

use super::reference::{Key, key};

pub(super) const API: &[Key] = &[key(
    "listen_addr",
    "`host:port`, or a list of them",
    "`127.0.0.1:8080`",
    "Where REST is served; `[]`: nowhere. An address others can reach is refused at start as long as there is no API key. The default address is given up with a warning if it is taken; one that is written here must be free.",
)];

pub(super) const OCI: &[Key] = &[
    key("cache_dir", "path", "`images` in `data_dir`", "Images, their root files and the layers of snapshots."),
    key(
        "insecure_registries",
        "list of `host[:port]`",
        "`[]`",
        "Registries spoken to in plain HTTP. Loopback ones always are, if they do not speak TLS.",
    ),
    key("mirrors", "table of lists", "none", "Registry to the mirrors asked before it, `host[:port]` each."),
    key("docker_config", "path", "none", "`config.json` of docker, with credentials and credential helpers."),
    key("cache_max", "size", "`0`: none", "Bytes of images kept that nothing uses; the oldest goes first."),
    key("parallel_layers", "1 to 32", "`4`", "Layers fetched at the same time."),
    key("init_binary", "path", "none", "NanoBox's; no effect (see the end)."),
    key(
        "dns_server",
        "address",
        "none",
        "NanoBox's; the same as `network.upstreams`. One within `network.subnet` was NanoBox's own and has no effect.",
    ),
];

pub(super) const SANDBOXES: &[Key] = &[
    key("default_timeout_sec", "seconds", "`3600`", "Life span of a sandbox whose creator names none; `0`: no end."),
    key("max_timeout_sec", "seconds", "`0`: none", "Longest life span a creator may ask for."),
    key("max_per_namespace", "number", "`0`: none", "Most sandboxes of one namespace at a time."),
    key("keep_ended_sec", "seconds", "`3600`", "How long an ended sandbox is remembered and can be explained."),
    key("keep_ended_max", "number", "`10000`", "How many of them; the oldest goes first."),
];

pub(super) const POOL: &[Key] = &[
    key("replenish_interval_sec", "1 to 3600", "`5`", "How often pools are looked after; a claim fills at once."),
    key("max_idle_sec", "seconds", "`600`", "Members above `min_ready` end after this long."),
    key("templates", "list of tables", "", "See `[[pool.templates]]`."),
    key(
        "workloads",
        "number",
        "`0`",
        "MicroVMs kept ready for workloads in microVMs that ask for no limits, template, network or privileges of their own; Nex's `machine_pool_size`. The first is booted, the others are made from it.",
    ),
];

pub(super) const POOL_TEMPLATES: &[Key] = &[
    key("name", "text", "required", "Template, `host` and `scratch` among them."),
    key("min_ready", "number", "required", "Sandboxes kept ready at least."),
    key("max_ready", "number", "required", "Sandboxes kept ready at most."),
    key("image", "image reference", "none", "Image the template is warmed up from when the node starts."),
    key(
        "network",
        "`isolated`, `internal` or `internet`",
        "`isolated`",
        "Network of its members. Creates with `internal` and `internet` are served by a pool with either; policy, ports and limits are theirs.",
    ),
    key(
        "isolation",
        "`container` or `microvm`",
        "`container`",
        "Weakest isolation its members have. The first microVM of a version is booted and kept; those after it are made from what was kept.",
    ),
];

pub(super) const AGENT: &[Key] = &[
    key("node_id", "text", "none", "The same as `name`."),
    key("firecracker_bin", "path", "none", "The same as `firecracker.program`."),
    key("rootfs_dir", "path", "none", "No effect (see the end)."),
    key("snapshot_dir", "path", "none", "The same as `guest.machines_dir`."),
];

pub(super) const NETWORK: &[Key] = &[
    key(
        "enabled",
        "true or false",
        "if this host can",
        "Networks of sandboxes. `true`: a host that cannot have them stops the start. Not written: such a host makes a node that gives `isolated` only and says why.",
    ),
    key(
        "name",
        "1 to 8 of a-z, 0-9",
        "`moat`, or from `run_dir`",
        "What links and the table of rules are called. Nodes on one host differ in it.",
    ),
    key("subnet", "range", "`10.100.0.0/16`, or from `run_dir`", "Addresses of sandboxes, first and last left out."),
    key("gateway", "address", "`169.254.1.1`, or from `run_dir`", "Next hop and resolver of every sandbox."),
    key("uplink", "name of a link", "by the host's routes", "Link that leads out."),
    key("host_iface", "name of a link", "none", "NanoBox's; the same as `uplink`."),
    key("bridge_name", "text", "none", "NanoBox's; no effect (see the end)."),
    key(
        "allow",
        "list of ranges",
        "`[]`",
        "Ranges that sandboxes may reach although they are private, link-local, a metadata service's or multicast.",
    ),
    key("deny", "list of ranges", "`[]`", "Ranges no sandbox reaches, whatever else is said."),
    key(
        "choose_from",
        "list of ranges",
        "private ones",
        "Ranges beside `subnet` from which callers may choose addresses. The host itself sends packets for such an address to the sandbox that has it. Not written: private addresses the host has no way to but its default route; where others stand behind that route, write the ranges nobody has, or `[]`.",
    ),
    key(
        "upstreams",
        "list of `address[:port]`",
        "those of /etc/resolv.conf",
        "Who is asked for names that are nobody's here.",
    ),
    key("domain", "domain", "`moat.internal`", "Domain of sandboxes' names."),
    key("ready", "number", "`8`", "Links prepared before they are needed."),
    key("slots_max", "1 to 65535", "`4096`", "Most links, prepared ones included."),
    key(
        "publish_address",
        "address",
        "`127.0.0.1`",
        "Address of the host that ports are published at if a caller names none.",
    ),
    key("publish_ports", "range", "`20000-32000`", "Ports of the host for callers who leave theirs open."),
    key(
        "publish_public",
        "true or false",
        "`false`",
        "Callers may publish at any address of the host instead of its loopback and `publish_address` alone, and below port 1024.",
    ),
];
