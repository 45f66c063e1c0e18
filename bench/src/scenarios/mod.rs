//! What is measured. A scenario says in words where it begins and where it ends.

mod create;
mod deploy;
mod exec;
mod image;
mod jails;
mod logs;
mod machines;
mod many_jails;
mod networks;
mod node;
mod planning;
mod recovery;
mod rest;
mod sandboxes;
mod throughput;

use futures::future::LocalBoxFuture;

use crate::samples::Sample;
use crate::statistics::Summary;

/// Something worth measuring.
pub struct Scenario {
    /// Its id; that of the promise it proves, if there is one.
    pub id: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What is measured, from where to where, and what the rivals do meanwhile.
    pub method: &'static str,
    /// What is promised of it.
    pub promise: Option<Promise>,
    /// Takes long, or much of the machine: measured only when it is named.
    pub by_hand: bool,
    /// A series of ours, and the rival's that does the same; every other rival is compared with our last.
    pub beside: &'static [(&'static str, &'static str)],
    run: fn() -> LocalBoxFuture<'static, anyhow::Result<Vec<Sample>>>,
}

/// Finds the summary of a series by its name.
pub type Lookup<'a> = dyn Fn(&str) -> Option<Summary> + 'a;

/// A bound on one series of a scenario.
pub struct Promise {
    /// In the words of SPECIFICATION.md.
    pub words: &'static str,
    /// Whether the series, looked up by name, keep it; nothing if one is missing.
    pub kept: fn(&Lookup) -> Option<bool>,
}

impl Scenario {
    /// Measures.
    pub async fn run(&self) -> anyhow::Result<Vec<Sample>> {
        (self.run)().await
    }
}

/// All of them, in the order they are shown.
pub const SCENARIOS: [Scenario; 19] = [
    Scenario {
        id: "T1",
        title: "create from a warm pool, over REST",
        method: "`POST /api/v1/sandboxes` for the template `host` over one kept connection, from the call to the whole \
                 answer, when a member stands ready; deleted afterwards. A create that the pool did not serve is in a \
                 series of its own. No rival keeps sandboxes ready.",
        promise: Some(Promise {
            words: "p50 ≤ 2 ms, p99 ≤ 10 ms",
            kept: |of| of(rest::WARM).map(|s| s.p50 <= 2.0 && s.p99 <= 10.0),
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(rest::warm()),
    },
    Scenario {
        id: "T2",
        title: "cold create of a container",
        method: "`create → agent ready`: `Engine::create` of a sandbox without a main process on the scratch root, until it \
                 returns; no NATS. The other series are whole lives, the same outcome for everybody: make a sandbox, run \
                 `true` in it, remove every trace. Ours: create, exec, delete through the engine. `runc run` of a busybox \
                 bundle with a user namespace and the same memory and process limits. `bwrap --unshare-all` over the \
                 host's `/usr`: no cgroup, no seccomp filter, no own range of users, so its number is that of a weaker \
                 box.",
        promise: Some(Promise {
            words: "p50 ≤ 5 ms, p99 ≤ 25 ms",
            kept: |of| of(create::READY).map(|s| s.p50 <= 5.0 && s.p99 <= 25.0),
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(create::run()),
    },
    Scenario {
        id: "T1n",
        title: "create from a warm pool, with a network",
        method: "T1 on two nodes in turn: the pool of one has members with loopback only, that of the other members with \
                 `internet`. What a network takes is done before it is asked for; the claim names it, gives it to the \
                 namespace and opens its rules.",
        promise: Some(Promise {
            words: "with a network p50 ≤ 1 ms more than without",
            kept: |of| Some(of(networks::WARM_INTERNET)?.p50 <= of(networks::WARM_ISOLATED)?.p50 + 1.0),
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(networks::warm()),
    },
    Scenario {
        id: "T2n",
        title: "cold create of a container, with a network",
        method: "`create → agent ready` of T2, in turn with loopback only and with `internet`, through one engine: the \
                 namespace and its link are taken from those prepared, its rules are made.",
        promise: None,
        beside: &[],
        by_hand: false,
        run: || Box::pin(networks::cold()),
    },
    Scenario {
        id: "T3",
        title: "exec of `true` in a live sandbox",
        method: "From the call to the exit status: through the engine, by a client over NATS to a daemon (claims signed, checked, \
                 stream opened, output and exit delivered), and over REST on one kept connection (`POST …/exec`, \
                 `/bin/true` of a `host` root). The rival is `runc exec` in a running container, a program that has to \
                 start first.",
        promise: Some(Promise { words: "over REST p50 ≤ 1.5 ms", kept: |of| of(rest::EXEC).map(|s| s.p50 <= 1.5) }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(exec::run()),
    },
    Scenario {
        id: "T5",
        title: "a burst of a hundred creates, over REST",
        method: "A hundred `POST /api/v1/sandboxes` for the template `host` at once, without a pool, each from its \
                 call to its answer. All must succeed, and after a hundred deletes nothing may be left. No rival takes \
                 creates over a wire.",
        promise: Some(Promise {
            words: "all succeed, p99 ≤ 10 × p50",
            kept: |of| of(rest::BURST).map(|s| s.count == 100 && s.p99 <= 10.0 * s.p50),
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(rest::burst()),
    },
    Scenario {
        id: "T6",
        title: "an image made ready",
        method: "A Debian of 128 MB and 6,600 files in one gzip layer, in a docker-registry on the same machine: from the \
                 reference, with an empty store, until its root file is written and synced; and the same again, which asks \
                 the registry once. The third series takes the same image from an OCI layout on disk. The rival fetches \
                 with `skopeo copy` and unpacks with `umoci unpack`, and syncs nothing.",
        promise: Some(Promise {
            words: "≤ 1.5 s for 150 MB from a local registry; again: no work",
            kept: |of| Some(of(image::FROM_REGISTRY)?.p50 <= 1500.0 && of(image::AGAIN)?.p50 <= 50.0),
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(image::run()),
    },
    Scenario {
        id: "D1",
        title: "deploy to running, and stop, over NATS",
        method: "From the client's call (it asks the node for its key, seals, signs, sends DEPLOY) to the node's reply, which \
                 it sends when the program runs; and from STOP to its reply, which it sends when nothing is left. The \
                 program is in the node's cache except in the first round, which is not counted, and ends on the first \
                 signal.",
        promise: None,
        beside: &[],
        by_hand: false,
        run: || Box::pin(deploy::run()),
    },
    Scenario {
        id: "T11",
        title: "log lines per second",
        method: "A workload writes 200,000 lines of 100 bytes as fast as they are taken; a subscriber counts lines on \
                 `$NEX.logs.…` from the first to the last. The rival publishes payloads of the same number and size \
                 straight to the same server from a connection of its own, counted by the same kind of subscriber. Ours \
                 also writes each line to a file, wraps it in JSON and has JetStream keep it; the second rival series \
                 publishes into a JetStream stream, without waiting for each acknowledgement.",
        promise: Some(Promise {
            words: "≥ 0.8 × the rate of publishing the same bytes straight to NATS",
            kept: |of| Some(of(logs::OURS)?.p50 >= 0.8 * of(logs::STRAIGHT)?.p50),
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(logs::run()),
    },
    Scenario {
        id: "T8",
        title: "boot of a microVM, and what going on saves",
        method: "`POST /api/v1/sandboxes` for the template `scratch` with isolation `microvm` and 128 MiB, from the call to \
                 the answer, when the agent has confirmed what the machine is; then the same machine's memory to disk \
                 (`pause` to `disk`) and back (`resume`), each to its answer. In turn with the same QEMU started by hand \
                 with the same kernel, initramfs, machine and memory, until its agent writes its word to the console: no \
                 jail, no disk, no network, nobody told what it is. The memory is the proportional set of the monitor \
                 while the machine idles. Both are translated (`tcg`), on every host.",
        promise: Some(Promise {
            words: "boot ≤ 1.05 × by hand, restore ≤ 0.2 × boot", kept: |of| machines::kept(of)
        }),
        beside: &[(machines::BOOT, machines::BY_HAND)],
        by_hand: false,
        run: || Box::pin(machines::boot()),
    },
    Scenario {
        id: "T1v",
        title: "create of a microVM from a warm pool, over REST",
        method: "T1 with a pool of two microVMs of the template `scratch`; each create waits until both stand ready again, \
                 so that no machine starts meanwhile.",
        promise: None,
        beside: &[],
        by_hand: false,
        run: || Box::pin(machines::warm()),
    },
    Scenario {
        id: "T9",
        title: "recovery after kill -9",
        method: "The daemon of a node with 20 running workloads is killed with SIGKILL and started again; from its start \
                 until it lists all 20 as running. Connecting to NATS is included.",
        promise: Some(Promise { words: "within 2 s", kept: |of| of(recovery::OURS).map(|s| s.max <= 2000.0) }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(recovery::run()),
    },
    Scenario {
        id: "PL",
        title: "planning among 5,000 nodes and 20,000 instances",
        method: "The planner alone, without a node or NATS: 5,000 simulated nodes in five datacenters run 200 jobs of 100 \
                 instances, each job with two constraints, an affinity and a spread. From the call of `plan` for one job \
                 to its return: a new job of 10 instances; a job of 100 that becomes one of 110; every job that had an \
                 instance on a node that is lost, or on one that is emptied; a job with nothing to do; a new job of 1000. \
                 Each plan is carried out before the next. Every node is looked at, none is left to chance. No rival plans \
                 without its servers.",
        promise: None,
        beside: &[],
        by_hand: false,
        run: || Box::pin(planning::run()),
    },
    Scenario {
        id: "JC",
        title: "clone of a running jail",
        method: "`POST /api/v1/jails/{name}/clone` of a thin jail that runs, to its last line. It has 1 GiB of files of its \
                 own, 8,192 of 64 KiB and 64 of 8 MiB, and one more of 64 MiB; meanwhile a program in it makes a log grow by \
                 4 KiB every 10 ms and writes one of a hundred files of 64 KiB anew every 50 ms; in a series of its own also \
                 4 KiB anywhere in the file of 64 MiB every 2 ms. Another program in it wakes every millisecond: its longest \
                 sleep during a clone is how long the jail stood still, with all that the disk and the two cores add to it. In \
                 turn with `cp -a --reflink=auto` of the same directory and `sync -f`, which stops nobody and copies what is \
                 torn; the same program's longest sleep meanwhile is the noise. Both write everything to disk. Where the file \
                 system can share blocks (btrfs, XFS) both do; ext4 cannot, and a clone there takes the room of its source. \
                 Then the same, with the file of 64 MiB being written, on an XFS in a file of the same disk.",
        promise: Some(Promise {
            words: "stands still ≤ 100 ms",
            kept: |of| Some(of(jails::STOOD)?.max <= 100.0 && of(jails::STOOD_SHARED).is_none_or(|s| s.max <= 100.0)),
        }),
        beside: &[
            (jails::STOOD, jails::STOOD_CP),
            (jails::CLONED, jails::COPIED),
            (jails::ROOM, jails::ROOM_SOURCE),
            (jails::CLONED_SHARED, jails::COPIED_SHARED),
        ],
        by_hand: false,
        run: || Box::pin(jails::clone()),
    },
    Scenario {
        id: "J200",
        title: "two hundred jails on one node",
        method: "Thin jails of a release of busybox, each with the node's init, no service, and the network it gets by \
                 default (`internet`, its own address and name), files on disk: made and started one after the other over \
                 REST, as `bastille start ALL` does, each call to its last line; listed; measured at rest; stopped in the same \
                 way, in the other order. Then three times: the daemon started as after a boot of the host, until all are \
                 listed as up, and told to end with all its jails. Afterwards nothing may be left. Nobody else keeps such \
                 jails on Linux; beside them stand `runc run --detach` of a busybox that sleeps, without a network, a file \
                 system of its own or anything that watches it.",
        promise: Some(Promise {
            words: "an idle one has ≤ 1 MiB of its own memory",
            kept: |of| of(many_jails::MEMORY).map(|s| s.max <= 1.0),
        }),
        beside: &[(many_jails::START, many_jails::RUNC_START), (many_jails::MEMORY, many_jails::RUNC_MEMORY)],
        by_hand: false,
        run: || Box::pin(many_jails::many()),
    },
    Scenario {
        id: "N1000",
        title: "a thousand sandboxes with networks on one node",
        method: "A thousand `POST /api/v1/sandboxes` with `internet`, one after the other and without a pool, all living at \
                 once, then a thousand deletes. Afterwards links, routes, network namespaces, rules, processes, control \
                 groups and mounts of the host must be as before, or nothing is measured. Only when it is named.",
        promise: Some(Promise {
            words: "the last hundred creates at most 2 × the first hundred at p50, nothing left",
            kept: |of| Some(of(networks::LAST)?.p50 <= 2.0 * of(networks::FIRST)?.p50),
        }),
        beside: &[],
        by_hand: true,
        run: || Box::pin(networks::thousand()),
    },
    Scenario {
        id: "T-N1",
        title: "throughput of a sandbox's link",
        method: "One TCP stream for 1.5 s after 0.7 s that are not counted, bits as the receiver counts them, in both \
                 directions over a connection the host opened: into a sandbox as the daemon connects it, with all rules, and \
                 into a namespace behind a veth pair on a machine without any.",
        promise: Some(Promise {
            words: "≥ 0.9 × a bare veth pair",
            kept: |of| {
                let into = of(throughput::INTO)?.p50 >= 0.9 * of(throughput::BARE_INTO)?.p50;
                Some(into && of(throughput::OUT)?.p50 >= 0.9 * of(throughput::BARE_OUT)?.p50)
            },
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(throughput::link()),
    },
    Scenario {
        id: "T-N2",
        title: "accuracy of bandwidth limits",
        method: "One TCP stream between a sandbox with a limit and one of its namespace without, for 4 s after 0.7 s that \
                 are not counted. By how much its rate on the wire, headers included, differs from the limit, up or down.",
        promise: Some(Promise {
            words: "within 5 %",
            kept: |of| {
                let series = throughput::LIMITS.iter().flat_map(|(up, down, _)| [*up, *down]);
                series.map(|name| of(name).map(|s| s.max <= 5.0)).try_fold(true, |all, one| Some(all && one?))
            },
        }),
        beside: &[],
        by_hand: false,
        run: || Box::pin(throughput::limits()),
    },
    Scenario {
        id: "T-N3",
        title: "throughput between two sandboxes",
        method: "As T-N1, from one sandbox to another of its namespace, every packet evaluated by the rules; beside two \
                 namespaces behind bare veth pairs, the host forwarding between them.",
        promise: None,
        beside: &[],
        by_hand: false,
        run: || Box::pin(throughput::across()),
    },
];
