//! The configuration described, key by key: the source of `docs/config.md`.

use std::fmt::Write as _;

use super::{jails, jobs_reference, service_reference};

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name within its table.
    pub name: &'static str,
    /// What is written for it.
    pub shape: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// One table of the file; the first has no name.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// `nats` for `[nats]`.
    pub table: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Its keys, in the order of `raw`.
    pub keys: &'static [Key],
}

pub(super) const fn key(name: &'static str, shape: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, shape, default, meaning }
}

const TOP: &[Key] = &[
    key(
        "run_dir",
        "path",
        "`/run/moat`",
        "What must survive the daemon but not the power. One daemon at a time; put it on a tmpfs: workload records in it hold environments in clear text. At most 56 bytes long, for sockets lie below it.",
    ),
    key(
        "data_dir",
        "path",
        "`/var/lib/moat`",
        "What must survive the power: the node's keys, fetched programs, log files.",
    ),
    key("name", "text", "made from the node's key", "Name shown to people (tag `node_name`)."),
    key("nexus", "text", "`nexus`", "Label of the group of nodes this one belongs to."),
    key(
        "workload_types",
        "list",
        "`[\"native\"]`",
        "Types of workloads taken. Only `native` runs on this version; others are left out with a warning.",
    ),
    key("valid_issuers", "list of public nkeys", "`[]`: anybody", "Who may sign a deploy."),
    key(
        "deny_trigger_subjects",
        "list of patterns",
        "`$SYS.>`, `$JS.>`, `$NEX.>`",
        "Trigger patterns refused, in addition to these three.",
    ),
    key(
        "drivers",
        "list",
        "`[\"container\", \"firecracker\", \"qemu\"]`",
        "Drivers offered: `container`, `firecracker`, `qemu`, `process`; of two that give the same the first. One that cannot work on this host is left out, and the log says why. `process` means **no sandbox**; it is refused unless it stands here.",
    ),
    key(
        "isolation",
        "`microvm`, `container` or `process`",
        "`container` if that driver is listed",
        "Isolation of a workload that asks for none. A node without a driver that gives it does not start.",
    ),
    key(
        "template",
        "`host` or `scratch`",
        "`host`",
        "Root file system of a workload that asks for none: a view of host paths, or nothing.",
    ),
    key(
        "artifact_cache_max",
        "size",
        "`2GiB`",
        "Fetched programs kept although nothing uses them; the least recently used goes first.",
    ),
    key("metrics_listen", "address", "off", "Where `/metrics` is served, for example `127.0.0.1:8085`."),
    key(
        "workload_nats",
        "`host:port`",
        "off",
        "A NATS server that workloads deployed with `moat.nats` reach at 127.0.0.1:4222 inside, and nothing else of the host's network.",
    ),
    key(
        "stop_workloads",
        "true or false",
        "`false`",
        "Stop all workloads, tasks of jobs, jails and sandboxes when the daemon ends, instead of leaving them running for the next one, which begins tasks and jails anew.",
    ),
    key("heartbeat_interval", "span", "`30s`", "Time between heartbeat events."),
    key("uid_base", "number", "`1073741824`", "First host user id given to sandboxes; each takes 65,536."),
    key("sandboxes_max", "number", "`1000`", "Most sandboxes at a time."),
    key("agent_start_timeout", "span", "the engine's", "How long the agent of a new sandbox may take to answer."),
    key(
        "tags",
        "table of texts",
        "none",
        "Shown by the node and matched by auctions. Names that begin with `nex.` are the node's own.",
    ),
    key("nats", "table", "", "See `[nats]`."),
    key("limits", "table", "", "See `[limits]`."),
    key("resources", "table", "", "See `[resources]`."),
    key("restart", "table", "", "See `[restart]`."),
    key("logs", "table", "", "See `[logs]`."),
    key("history", "table", "", "See `[history]`."),
    key("container", "table", "", "See `[container]`."),
    key("process", "table", "", "See `[process]`."),
    key("api", "table", "", "See `[api]`."),
    key("proxy", "table", "", "See `[proxy]`."),
    key("oci", "table", "", "See `[oci]`."),
    key("sandboxes", "table", "", "See `[sandboxes]`."),
    key("pool", "table", "", "See `[pool]`."),
    key("agent", "table", "", "See `[agent]`."),
    key("guest", "table", "", "See `[guest]`."),
    key("qemu", "table", "", "See `[qemu]`."),
    key("firecracker", "table", "", "See `[firecracker]`."),
    key("network", "table", "", "See `[network]`."),
    key("jobs", "table", "", "See `[jobs]`."),
    key("jails", "table", "", "See `[jails]`."),
    key("autostart", "list of tables", "", "See `[[autostart]]`."),
];

const NATS: &[Key] = &[
    key("servers", "list of URLs", "`[\"nats://127.0.0.1:4222\"]`", "Servers of the system this node joins."),
    key("creds", "path", "none", "Credentials file (user JWT and seed)."),
    key("nkey", "path", "none", "File holding a user's nkey seed."),
    key("user", "text", "none", "User name."),
    key("password", "text", "none", "Password of `user`."),
    key("token", "text", "none", "Token."),
    key("tls_cert", "path", "none", "Client certificate; with `tls_key`."),
    key("tls_key", "path", "none", "Key of `tls_cert`."),
    key("tls_ca", "path", "the system's", "Certificate authority the server is held against."),
    key("tls_first", "true or false", "`false`", "TLS before the server's greeting."),
];

const LIMITS: &[Key] = &[
    key("workloads_max", "number", "`0`: none", "Workloads at a time."),
    key("artifact_size_max", "size", "`0`: none", "Bytes of one program."),
    key("total_size_max", "size", "`0`: none", "Bytes of the programs of everything that runs, the new one included."),
];

const RESOURCES: &[Key] = &[
    key("memory", "size", "the driver's", "Hard memory limit, agent and writable layer included. Swap is always zero."),
    key("memory_reserve", "size", "none", "Memory protected from reclaim; at most `memory`."),
    key("cpu_weight", "1 to 10000", "the kernel's", "Relative share of CPU; 100 is one share."),
    key("cpu_quota_millis", "number", "none", "Hard CPU quota in thousandths of a core."),
    key("cpuset", "CPU list", "all", "CPUs it may run on, such as `0-1,4`."),
    key("pids_max", "number", "the driver's", "Processes and threads."),
    key("disk", "size", "the driver's", "Size of the private writable layer."),
    key("secrets", "size", "`1MiB`", "Size of `/secrets`."),
    key("nofile", "number", "the driver's", "Open files of a process."),
];

const RESTART: &[Key] = &[
    key("attempts_max", "number", "`12`", "Failures in a row after which an essential workload is given up."),
    key("delay_initial", "span", "`500ms`", "Wait before the first restart; it doubles each time."),
    key("delay_max", "span", "`60s`", "Longest wait."),
    key("healthy_after", "span", "`2m`", "A run of this length clears the count of failures."),
];

const LOGS: &[Key] = &[
    key("files_max", "number", "`10`", "Files kept for each of stdout and stderr of a workload."),
    key("file_size_max", "size", "`10MiB`", "Size at which the next file begins."),
];

const AUTOSTART: &[Key] = &[
    key("name", "text", "required", "Name of the workload."),
    key("namespace", "text", "`default`", "Its namespace."),
    key("argv", "list", "`[]`", "Arguments."),
    key("description", "text", "empty", "Free text."),
    key("essential", "true or false", "`false`", "Restarted when it fails."),
    key("type", "text", "`native`", "Type of workload."),
    key("location", "URL", "required", "Its program: `nats://BUCKET/key` in an object store."),
    key("jsdomain", "text", "none", "JetStream domain of the bucket."),
    key(
        "environment",
        "table of texts",
        "empty",
        "Its environment. Names are upper-cased, as for a deployed workload.",
    ),
    key(
        "trigger_subjects",
        "list",
        "`[]`",
        "Accepted for Nex's sake and refused if not empty: only functions have triggers.",
    ),
    key("moat", "table", "none", "Kind, isolation, template, limits and more: the `moat` member of a DEPLOY request."),
];

const HISTORY: &[Key] = &[
    key("enabled", "true or false", "`true`", "Keep log lines and events in JetStream, if the server has it."),
    key(
        "logs_bytes_max",
        "bytes",
        "`268435456`",
        "Bytes of log lines kept by all nodes together; the oldest go first.",
    ),
    key("events_bytes_max", "bytes", "`67108864`", "Bytes of events kept; the oldest go first."),
];

const CONTAINER: &[Key] = &[
    key(
        "host_paths",
        "table of paths",
        "Nomad's `chroot_env` list",
        "Host path to path inside, for the `host` template. A table given here replaces the default. Missing paths are skipped.",
    ),
    key("default_user", "text", "`nobody`", "User of programs that name none."),
    key(
        "disk_ids",
        "number",
        "`1073676288`",
        "First of 65,536 host ids that own, on disk, the files of tasks' directories: nobody's, and below `uid_base`. Root of a task is this id there and never the host's. Not to be changed while there are allocations.",
    ),
    key("allow_caps", "list", "the 13 usual ones without `net_raw`", "Capabilities a sandbox may be given."),
    key(
        "resources",
        "table",
        "",
        "Limits where neither the workload nor `[resources]` names one: `memory_bytes`, `cpu_weight`, `pids_max`, `disk_bytes`, `secrets_bytes`, `nofile`.",
    ),
    key("cgroup_parent", "text", "`moat`", "Cgroup all sandboxes are below."),
];

const PROCESS: &[Key] = &[
    key("enabled", "true or false", "as `drivers` says", "The same as listing `process` in `drivers`."),
    key(
        "resources",
        "table",
        "",
        "Limits where neither the workload nor `[resources]` names one, in the words of the `moat.resources` of a DEPLOY request. A table given here replaces the default whole.",
    ),
    key("cgroup_parent", "text", "`moat`", "Cgroup all workloads are below."),
];

/// The whole file, in order.
pub const SECTIONS: &[Section] = &[
    Section { table: "", about: "", keys: TOP },
    Section {
        table: "nats",
        about: "The node's own connection. Of `creds`, `nkey`, `user` and `token` at most one. It needs the permissions listed in `docs/operations.md`; workloads never see it.",
        keys: NATS,
    },
    Section { table: "limits", about: "Bounds on what the node takes. Zero is no bound, as in Nex.", keys: LIMITS },
    Section { table: "resources", about: "Limits of a workload that asks for none.", keys: RESOURCES },
    Section { table: "restart", about: "How essential workloads are restarted.", keys: RESTART },
    Section { table: "logs", about: "Log files of a workload.", keys: LOGS },
    Section {
        table: "history",
        about: "What JetStream keeps. An existing stream `MOAT_LOGS` or `MOAT_EVENTS` is used as it is.",
        keys: HISTORY,
    },
    Section { table: "container", about: "The container driver.", keys: CONTAINER },
    Section { table: "process", about: "The process driver: **no sandbox**.", keys: PROCESS },
    Section { table: "api", about: "The REST API.", keys: service_reference::API },
    Section {
        table: "proxy",
        about: "The HTTP proxy before the ports of sandboxes: `docs/ingress.md`.",
        keys: super::proxy::KEYS,
    },
    Section { table: "oci", about: "Images and where they come from.", keys: service_reference::OCI },
    Section {
        table: "sandboxes",
        about: "Bounds on sandboxes made through the API. Limits they do not name are those of `[resources]`.",
        keys: service_reference::SANDBOXES,
    },
    Section {
        table: "pool",
        about: "Sandboxes that stand ready before they are asked for.",
        keys: service_reference::POOL,
    },
    Section { table: "pool.templates", about: "The pool of one template.", keys: service_reference::POOL_TEMPLATES },
    Section { table: "agent", about: "NanoBox's table.", keys: service_reference::AGENT },
    Section {
        table: "guest",
        about: "What microVMs boot, and how large they are: docs/microvms.md.",
        keys: super::machines::GUEST,
    },
    Section { table: "qemu", about: "The QEMU driver.", keys: super::machines::QEMU },
    Section {
        table: "firecracker",
        about: "The Firecracker driver. It needs KVM on which guests really run.",
        keys: super::machines::FIRECRACKER,
    },
    Section {
        table: "network",
        about: "What connects sandboxes; docs/networks.md says how. The table is NanoBox's, with more in it. A node that is not in `/run/moat` has a name, subnet and gateway derived from its `run_dir`, so that several can share a host.",
        keys: service_reference::NETWORK,
    },
    Section { table: "jails", about: "Environments with a name that last: `docs/jails.md`.", keys: jails::JAILS },
    Section { table: "jails.releases", about: "What releases of jails are made from.", keys: jails::RELEASES },
    Section { table: "jobs", about: "What this node offers to jobs: `docs/jobs.md`.", keys: jobs_reference::JOBS },
    Section {
        table: "jobs.host_volumes.NAME",
        about: "A path of the host jobs may ask for by name.",
        keys: jobs_reference::HOST_VOLUMES,
    },
    Section {
        table: "jobs.capacity",
        about: "What there is, where you know better than what the node finds.",
        keys: jobs_reference::CAPACITY,
    },
    Section { table: "jobs.reserved", about: "What is not for jobs.", keys: jobs_reference::RESERVED },
    Section { table: "jobs.artifact", about: "Bounds on fetching artifacts.", keys: jobs_reference::ARTIFACT },
    Section { table: "jobs.gc", about: "When directories of ended allocations are removed.", keys: jobs_reference::GC },
    Section {
        table: "jobs.drain_on_shutdown",
        about: "With this table, even an empty one, the node is emptied before the daemon ends.",
        keys: jobs_reference::DRAIN,
    },
    Section {
        table: "autostart",
        about: "Workloads started with the node, one table each, in order. They are signed with the node's own key, so only the holder of that key (the node's operator, from `<data_dir>/identity/node.nk`) can stop them over NATS.",
        keys: AUTOSTART,
    },
];

/// `docs/config.md`.
pub fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    for section in SECTIONS {
        match section.table {
            "" => out.push_str("\n## Top level\n"),
            table @ ("autostart" | "pool.templates") => {
                let _ = write!(out, "\n## `[[{table}]]`\n");
            }
            table => {
                let _ = write!(out, "\n## `[{table}]`\n");
            }
        }
        if !section.about.is_empty() {
            let _ = write!(out, "\n{}\n", section.about);
        }
        out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            let _ = writeln!(out, "| `{}` | {} | {} | {} |", key.name, key.shape, key.default, key.meaning);
        }
    }
    out.push_str(NANOBOX);
    for (name, why) in super::service::WITHOUT_EFFECT {
        let _ = writeln!(out, "| `{name}` | {why} |");
    }
    out.push_str(NEX);
    for (name, needs) in super::nex::without_effect() {
        let _ = writeln!(out, "| `{name}` | {needs} |");
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration of a node

Generated from `crates/node/src/config/reference.rs`; a test fails if they differ; `cargo xtask gen` writes it anew.

`moat node up --config FILE` reads TOML as below. A key that does not exist is an error that names its line. A file that is
named `.json`, or begins with a brace, is read as a Nex 0.2.7 node configuration instead (see the end). A file that is named
`.hcl` is read as the configuration of a Nomad agent: `docs/jobs.md` says what becomes of its keys.

Sizes are numbers of bytes or texts such as `\"64MiB\"` and `\"10MB\"`; spans are texts such as `\"500ms\"`, `\"30s\"`, `\"5m\"`.
";

const NANOBOX: &str = "
## NanoBox's TOML

A `nanobox.toml` is read unchanged; its tables are among those above. These members have no effect, and each is named in the
log with its reason:

| member | why it has no effect |
|---|---|
";

const NEX: &str = "
## Nex's JSON

Accepted unchanged: `no_sandbox` (offers the process driver and makes it the default), `machine_template` (the default
memory and CPU quota), `kernel_filepath`, `rootfs_filepath`, `default_resource_dir`,
`bin_path`, `rate_limiters` (those of `[firecracker]`), `workload_types`, `tags`, `valid_issuers`, `deny_trigger_subjects`, `node_limits`,
`agent_handshake_timeout_ms`, `autostart`, `cni.subnet` (`network.subnet`), `cni.nameservers` (`network.upstreams`);
`preserve_network` has no meaning, since this node never deletes what it did not
make. Without `no_sandbox`, and with a kernel or a resource directory named, workloads get what Nex gives them: a microVM, on a
host where hardware runs it; elsewhere a container, and the log says so. Members that nobody knows are ignored, as Nex does. The following are accepted without effect, and each is named
in the log with its reason:

| member | why it has no effect |
|---|---|
";
