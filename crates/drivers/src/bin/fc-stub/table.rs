//! Which requests there are, when they may be made, and what their bodies hold: from Firecracker's published description of its
//! interface.

use super::rules::{Field, Kind, may, must, since};

/// When a request may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the machine was started or loaded.
    Before,
    /// After.
    After,
    Always,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub method: &'static str,
    /// `*` stands for a name.
    pub path: &'static str,
    pub when: When,
    /// Sets something only a machine that boots has: none can be loaded afterwards.
    pub boots: bool,
    pub body: Option<&'static [Field]>,
}

const fn get(path: &'static str) -> Call {
    Call { method: "GET", path, when: When::Always, boots: false, body: None }
}

const fn before(path: &'static str, boots: bool, body: &'static [Field]) -> Call {
    Call { method: "PUT", path, when: When::Before, boots, body: Some(body) }
}

const fn after(method: &'static str, path: &'static str, body: &'static [Field]) -> Call {
    Call { method, path, when: When::After, boots: false, body: Some(body) }
}

/// All of them that this driver could have a use for.
pub const CALLS: &[Call] = &[
    get("/"),
    get("/version"),
    get("/vm/config"),
    get("/machine-config"),
    get("/balloon"),
    Call { when: When::After, ..get("/balloon/statistics") },
    before("/logger", false, LOGGER),
    before("/metrics", false, &[must("metrics_path", Kind::Text)]),
    before("/machine-config", true, MACHINE),
    before("/cpu-config", true, CPU),
    before("/boot-source", true, BOOT),
    before("/drives/*", true, DRIVE),
    before("/network-interfaces/*", true, LINK),
    before("/vsock", true, VSOCK),
    before("/entropy", true, &[may("rate_limiter", Kind::Object(LIMITER))]),
    before("/balloon", true, BALLOON),
    before("/snapshot/load", false, LOAD),
    Call {
        when: When::Always,
        ..before(
            "/actions",
            false,
            &[must("action_type", Kind::Word(&["FlushMetrics", "InstanceStart", "SendCtrlAltDel"]))],
        )
    },
    after("PATCH", "/vm", &[must("state", Kind::Word(&["Paused", "Resumed"]))]),
    after("PUT", "/snapshot/create", CREATE),
    after("PATCH", "/balloon", &[must("amount_mib", Kind::Number(0, u32::MAX as u64))]),
    after("PATCH", "/balloon/statistics", &[must("stats_polling_interval_s", Kind::Number(0, u16::MAX as u64))]),
    after(
        "PATCH",
        "/drives/*",
        &[must("drive_id", Kind::Text), may("path_on_host", Kind::Text), may("rate_limiter", Kind::Object(LIMITER))],
    ),
    after(
        "PATCH",
        "/network-interfaces/*",
        &[
            must("iface_id", Kind::Text),
            may("rx_rate_limiter", Kind::Object(LIMITER)),
            may("tx_rate_limiter", Kind::Object(LIMITER)),
        ],
    ),
];

const BUCKET: &[Field] = &[
    must("size", Kind::Number(0, u64::MAX)),
    must("refill_time", Kind::Number(0, u64::MAX)),
    may("one_time_burst", Kind::Number(0, u64::MAX)),
];

const LIMITER: &[Field] = &[may("bandwidth", Kind::Object(BUCKET)), may("ops", Kind::Object(BUCKET))];

const LOGGER: &[Field] = &[
    may("level", Kind::Word(&["Error", "Warning", "Info", "Debug", "Trace", "Off"])),
    may("log_path", Kind::Text),
    may("show_level", Kind::Bool),
    may("show_log_origin", Kind::Bool),
    may("module", Kind::Text),
];

const MACHINE: &[Field] = &[
    must("vcpu_count", Kind::Number(1, 32)),
    must("mem_size_mib", Kind::Number(1, u32::MAX as u64)),
    may("smt", Kind::Bool),
    may("cpu_template", Kind::Word(&["C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"])),
    may("track_dirty_pages", Kind::Bool),
    may("huge_pages", Kind::Word(&["None", "2M"])),
];

const CPU: &[Field] = &[
    may("kvm_capabilities", Kind::Modifiers),
    may("cpuid_modifiers", Kind::Modifiers),
    may("msr_modifiers", Kind::Modifiers),
    may("reg_modifiers", Kind::Modifiers),
    may("vcpu_features", Kind::Modifiers),
];

const BOOT: &[Field] =
    &[must("kernel_image_path", Kind::Text), may("initrd_path", Kind::Text), may("boot_args", Kind::Text)];

const DRIVE: &[Field] = &[
    must("drive_id", Kind::Text),
    must("is_root_device", Kind::Bool),
    // Required of a disk that is a file, which ours all are.
    must("path_on_host", Kind::Text),
    must("is_read_only", Kind::Bool),
    may("partuuid", Kind::Text),
    may("cache_type", Kind::Word(&["Unsafe", "Writeback"])),
    may("io_engine", Kind::Word(&["Sync", "Async"])),
    may("rate_limiter", Kind::Object(LIMITER)),
];

const LINK: &[Field] = &[
    must("iface_id", Kind::Text),
    must("host_dev_name", Kind::Text),
    may("guest_mac", Kind::Text),
    since(17, "mtu", Kind::Number(68, 65_535)),
    may("rx_rate_limiter", Kind::Object(LIMITER)),
    may("tx_rate_limiter", Kind::Object(LIMITER)),
];

const VSOCK: &[Field] =
    &[must("guest_cid", Kind::Number(3, u32::MAX as u64)), must("uds_path", Kind::Text), may("vsock_id", Kind::Text)];

const BALLOON: &[Field] = &[
    must("amount_mib", Kind::Number(0, u32::MAX as u64)),
    must("deflate_on_oom", Kind::Bool),
    may("stats_polling_interval_s", Kind::Number(0, u16::MAX as u64)),
    since(14, "free_page_hinting", Kind::Bool),
    since(14, "free_page_reporting", Kind::Bool),
];

const CREATE: &[Field] = &[
    must("snapshot_path", Kind::Text),
    must("mem_file_path", Kind::Text),
    may("snapshot_type", Kind::Word(&["Full", "Diff"])),
];

const LOAD: &[Field] = &[
    must("snapshot_path", Kind::Text),
    may("mem_file_path", Kind::Text),
    may(
        "mem_backend",
        Kind::Object(&[must("backend_type", Kind::Word(&["File", "Uffd"])), must("backend_path", Kind::Text)]),
    ),
    may("enable_diff_snapshots", Kind::Bool),
    since(14, "track_dirty_pages", Kind::Bool),
    may("resume_vm", Kind::Bool),
    since(12, "network_overrides", Kind::Objects(&[must("iface_id", Kind::Text), must("host_dev_name", Kind::Text)])),
    since(16, "vsock_override", Kind::Object(&[must("uds_path", Kind::Text)])),
    since(16, "clock_realtime", Kind::Bool),
];

/// The request of this method and path, and the name in the path.
pub fn find<'a>(method: &str, path: &'a str) -> Option<(&'static Call, &'a str)> {
    CALLS.iter().filter(|call| call.method == method).find_map(|call| match call.path.strip_suffix('*') {
        None => (call.path == path).then_some((call, "")),
        Some(prefix) => path.strip_prefix(prefix).filter(|name| !name.is_empty()).map(|name| (call, name)),
    })
}
