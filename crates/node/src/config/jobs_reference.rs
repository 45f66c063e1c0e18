//! The tables of [`jobs`](super::jobs) described.

use super::reference::{Key, key};

pub(super) const JOBS: &[Key] = &[
    key(
        "client_config",
        "path",
        "none",
        "A Nomad agent's configuration in HCL whose `client`, `plugin` and general keys are taken over: `docs/jobs.md`. What this file says itself has precedence.",
    ),
    key("datacenter", "text", "`dc1`", "`${node.datacenter}`; jobs choose by it."),
    key("region", "text", "`global`", "`${node.region}`."),
    key("class", "text", "none", "`${node.class}`."),
    key("pool", "text", "`default`", "`${node.pool}`: jobs run in one pool, or in `all`."),
    key(
        "drivers",
        "list",
        "`[\"exec\", \"raw_exec\", \"microvm\"]`",
        "Drivers offered to tasks, of those that work here. `raw_exec` is **no sandbox** and works only with `process.enabled`.",
    ),
    key(
        "network",
        "`internet`, `internal` or `isolated`",
        "`internet`",
        "Network of a group that names none, and of `mode = \"bridge\"`.",
    ),
    key("alloc_dir", "path", "`alloc` in `data_dir`", "Where allocations have their directories."),
    key("users_denied", "list of names", "`[\"root\", \"Administrator\"]`", "Users no task may be."),
    key("uids_denied", "list of ids and ranges", "`[]`", "User ids no task may have, such as `\"0\"` or `\"1-999\"`."),
    key("gids_denied", "list of ids and ranges", "`[]`", "Group ids no task may have."),
    key("host_pid", "true or false", "`false`", "A task that says `pid_mode = \"host\"` sees the host's processes."),
    key("host_ipc", "true or false", "`false`", "A task that says `ipc_mode = \"host\"` shares the host's IPC."),
    key("ports", "range", "`20000-32000`", "Ports of the node that are given to tasks that name none."),
    key("kill_timeout_max", "span", "`30s`", "The longest `kill_timeout` that is honoured; a longer one is cut to it."),
    key(
        "env_allowed",
        "list of globs",
        "`[\"PATH\", \"LANG\", \"LC_*\", \"TERM\", \"TZ\"]`",
        "Variables of the daemon that tasks get.",
    ),
    key("env_denied", "list of globs", "`[]`", "Variables of the daemon that they do not get all the same."),
    key("template_functions_denied", "list of names", "`[]`", "Functions no task's template may call."),
    key("remote_exec", "true or false", "`true`", "Programs may be run inside tasks from outside."),
    key(
        "replicas",
        "`1`, `3` or `5`",
        "`3` where there are as many servers, else `1`",
        "Copies JetStream keeps of the state of jobs.",
    ),
    key("meta", "table of texts", "none", "`${meta.…}`: free values jobs choose by."),
    key("host_volumes", "table of tables", "none", "See `[jobs.host_volumes.NAME]`."),
    key("capacity", "table", "", "See `[jobs.capacity]`."),
    key("reserved", "table", "", "See `[jobs.reserved]`."),
    key("artifact", "table", "", "See `[jobs.artifact]`."),
    key("gc", "table", "", "See `[jobs.gc]`."),
    key("drain_on_shutdown", "table", "off", "See `[jobs.drain_on_shutdown]`."),
];

pub(super) const HOST_VOLUMES: &[Key] = &[
    key("path", "path", "required", "What the host has."),
    key("read_only", "true or false", "`true`", "Nobody may write it. A job that wants to asks for it, too."),
];

pub(super) const CAPACITY: &[Key] = &[
    key("cpu_mhz", "number", "found", "MHz of all cores."),
    key(
        "cores",
        "CPU list",
        "none",
        "CPUs that are given whole to tasks with `cores`: no other container runs on them, and no other program without a sandbox.",
    ),
    key("memory", "size", "found", "Memory."),
    key("disk", "size", "found", "Disk below `data_dir`."),
];

pub(super) const RESERVED: &[Key] = &[
    key("cpu_mhz", "number", "`0`", "MHz."),
    key("cores", "CPU list", "none", "CPUs."),
    key("memory", "size", "`0`", "Memory."),
    key("disk", "size", "`0`", "Disk."),
    key("ports", "ports and ranges", "none", "Ports jobs may not have, such as `\"22,8000-8080\"`."),
];

pub(super) const ARTIFACT: &[Key] = &[
    key("http_timeout", "span", "`30m`", "One fetch over HTTP."),
    key("http_size_max", "size", "`100GiB`", "Bytes of it, and of an object of NATS."),
    key("git_timeout", "span", "`30m`", "One fetch from git."),
    key("s3_timeout", "span", "`30m`", "One fetch from S3."),
    key("files_max", "number", "`4096`", "Files in one archive."),
    key("unpacked_size_max", "size", "`100GiB`", "Bytes of them."),
    key(
        "paths_allowed",
        "list of paths",
        "`[]`",
        "Paths of the host the fetching child may read besides what it needs.",
    ),
    key("env_allowed", "list of names", "`[]`", "Variables of the daemon the fetching child gets."),
    key(
        "networks_allowed",
        "list of networks",
        "`[]`",
        "Networks and addresses that may be fetched from whatever they are. Without it, loopback, link-local addresses and those of a cloud's metadata may not. `127.0.0.0/8` opens whatever listens on this node to every job: name one server in `hosts` instead.",
    ),
    key("networks_denied", "list of networks", "`[]`", "Networks and addresses that may not."),
    key(
        "buckets",
        "list of names",
        "`[]`",
        "Object stores of NATS that jobs of every namespace may read; `\"*\"` is all of them. The one named `moat_objects_<namespace>` is a namespace's own, and needs no entry.",
    ),
    key(
        "hosts",
        "table of texts",
        "none",
        "Where names in addresses of artifacts lead, whatever a resolver says: `\"s3.internal.net\" = \"127.0.0.1:9000\"`. With a port, jobs may fetch from that server by that name even on loopback, and from nothing else there; without, the address is asked about like any other.",
    ),
];

pub(super) const GC: &[Key] = &[
    key("interval", "span", "`60s`", "How often is looked."),
    key("parallel", "number", "`2`", "Removed at once."),
    key("disk_percent", "1 to 100", "`80`", "The oldest go above this share of the disk in use."),
    key("inode_percent", "1 to 100", "`70`", "The same for inodes."),
    key("allocs_max", "number", "`50`", "The oldest go above this many allocations, those that run included."),
];

pub(super) const DRAIN: &[Key] = &[
    key("deadline", "span", "`1h`", "Whatever is left then is stopped."),
    key("force", "true or false", "`false`", "Stopped at once."),
    key("ignore_system", "true or false", "`false`", "System jobs stay."),
];
