//! What a group is limited to, and the writes that say so.

use std::collections::BTreeSet;

use moat_model::spec::Resources;

use super::{CgroupError, Result};

/// Period of the CPU quota: the kernel's default. Shorter ones cost more switching, longer ones make stalls felt.
const CPU_PERIOD_USEC: u64 = 100_000;
/// The kernel takes no quota below 1 ms per period.
const CPU_QUOTA_MILLIS_MIN: u32 = 10;
/// The agent, its buffers and the page tables of the first process; below this it would be the agent that is killed.
const MEMORY_MIN: u64 = 8 << 20;
/// The agent and one process.
const PIDS_MIN: u32 = 2;

/// Character devices a sandbox may open: null, zero, full, random, urandom, tty, ptmx and terminals.
const STOCK_DEVICES: [&str; 8] =
    ["c 1:3 rw", "c 1:5 rw", "c 1:7 rw", "c 1:8 rw", "c 1:9 rw", "c 5:0 rw", "c 5:2 rw", "c 136:* rw"];

/// Which devices the processes of a group may open.
///
/// This is a second wall where version 1 offers it. The first one is the user namespace: a device node cannot be made
/// in it, and mounts made in it ignore those that exist. Making nodes and tun devices, which other engines allow here,
/// is therefore left out of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Devices {
    /// Whatever file permissions allow.
    #[default]
    Any,
    /// The stock list.
    Stock,
    /// The stock list, and character devices by major and minor number, nodes of which may also be made in the group: the
    /// launcher makes them while it is root of the host, and nobody inside can.
    StockAnd(&'static [(u32, u32)]),
}

/// Limits of a group, with the node's defaults filled in. `None` is "no limit", because the operator said so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Hard memory limit; swap is zero.
    pub memory_bytes: Option<u64>,
    /// Memory protected from reclaim.
    pub memory_reserve_bytes: Option<u64>,
    /// 1 to 10000, 100 is one share.
    pub cpu_weight: Option<u32>,
    /// Thousandths of a core.
    pub cpu_quota_millis: Option<u32>,
    /// Kernel list format.
    pub cpuset: Option<String>,
    /// CPUs of its own, that many of those set aside.
    pub cores: Option<u32>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// Device access.
    pub devices: Devices,
}

impl Limits {
    /// What was asked, and the node's default where nothing was.
    ///
    /// A default reserve above an asked limit is lowered to it: the user did not ask for the contradiction.
    pub fn new(asked: &Resources, defaults: &Resources) -> Self {
        let memory_bytes = asked.memory_bytes.or(defaults.memory_bytes);
        let default_reserve = match (defaults.memory_reserve_bytes, memory_bytes) {
            (Some(reserve), Some(limit)) => Some(reserve.min(limit)),
            (reserve, _) => reserve,
        };
        Self {
            memory_bytes,
            memory_reserve_bytes: asked.memory_reserve_bytes.or(default_reserve),
            cpu_weight: asked.cpu_weight.or(defaults.cpu_weight),
            cpu_quota_millis: asked.cpu_quota_millis.or(defaults.cpu_quota_millis),
            // The default is for those who do not ask for their own.
            cpuset: asked.cpuset.clone().or_else(|| defaults.cpuset.clone().filter(|_| asked.cores.is_none())),
            cores: asked.cores,
            pids_max: asked.pids_max.or(defaults.pids_max),
            devices: Devices::Any,
        }
    }

    /// The rules that hold on every host.
    pub(super) fn check(&self) -> Result<()> {
        let invalid = |field, why: String| Err(CgroupError::Invalid { field, why });
        if let Some(memory) = self.memory_bytes
            && memory < MEMORY_MIN
        {
            return invalid("resources.memory_bytes", format!("{memory} is below the least possible, {MEMORY_MIN}"));
        }
        if let (Some(memory), Some(reserve)) = (self.memory_bytes, self.memory_reserve_bytes)
            && reserve > memory
        {
            return invalid("resources.memory_reserve_bytes", format!("{reserve} is above memory_bytes, {memory}"));
        }
        if let Some(weight) = self.cpu_weight
            && !(1..=10_000).contains(&weight)
        {
            return invalid("resources.cpu_weight", format!("{weight} is not within 1 to 10000"));
        }
        if let Some(quota) = self.cpu_quota_millis
            && quota < CPU_QUOTA_MILLIS_MIN
        {
            return invalid("resources.cpu_quota_millis", format!("{quota} is below {CPU_QUOTA_MILLIS_MIN}"));
        }
        if let Some(pids) = self.pids_max
            && pids < PIDS_MIN
        {
            return invalid("resources.pids_max", format!("{pids} is below {PIDS_MIN}: the agent is one of them"));
        }
        Ok(())
    }
}

/// One write into a control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub field: &'static str,
    pub file: &'static str,
    pub value: String,
    /// The kernel may have been built without the file and the limit still holds without it.
    pub if_present: bool,
}

impl Setting {
    pub(super) fn new(field: &'static str, file: &'static str, value: impl ToString) -> Self {
        Self { field, file, value: value.to_string(), if_present: false }
    }

    fn if_present(mut self) -> Self {
        self.if_present = true;
        self
    }
}

/// Writes for the memory controller.
pub(super) fn memory(limits: &Limits, v2: bool, host_swaps: bool) -> Vec<Setting> {
    let (hard, soft) = ("resources.memory_bytes", "resources.memory_reserve_bytes");
    let mut settings = Vec::new();
    if v2 {
        settings.extend(limits.memory_bytes.map(|bytes| Setting::new(hard, "memory.max", or_none(bytes, "max"))));
        settings.extend(limits.memory_reserve_bytes.map(|bytes| Setting::new(soft, "memory.low", bytes)));
        // Without the file the kernel cannot account swap; that only matters if there is any.
        let swap = Setting::new(hard, "memory.swap.max", 0);
        settings.push(if host_swaps { swap } else { swap.if_present() });
    } else {
        settings.push(Setting::new(hard, "memory.swappiness", 0).if_present());
        if let Some(bytes) = limits.memory_bytes {
            let bytes = or_none(bytes, "-1");
            settings.push(Setting::new(hard, "memory.limit_in_bytes", &bytes));
            settings.push(Setting::new(hard, "memory.memsw.limit_in_bytes", &bytes).if_present());
        }
        settings
            .extend(limits.memory_reserve_bytes.map(|bytes| Setting::new(soft, "memory.soft_limit_in_bytes", bytes)));
    }
    settings
}

/// A limit, or the kernel's word for none.
fn or_none(bytes: u64, none: &str) -> String {
    if bytes == Resources::UNLIMITED { none.to_owned() } else { bytes.to_string() }
}

/// Writes for the cpu controller.
pub(super) fn cpu(limits: &Limits, v2: bool) -> Vec<Setting> {
    let (weight, quota) = ("resources.cpu_weight", "resources.cpu_quota_millis");
    let quota_usec = limits.cpu_quota_millis.map(|millis| u64::from(millis) * CPU_PERIOD_USEC / 1000);
    let mut settings = Vec::new();
    if v2 {
        settings.extend(limits.cpu_weight.map(|w| Setting::new(weight, "cpu.weight", w)));
        settings.extend(quota_usec.map(|q| Setting::new(quota, "cpu.max", format!("{q} {CPU_PERIOD_USEC}"))));
    } else {
        settings.extend(limits.cpu_weight.map(|w| Setting::new(weight, "cpu.shares", kernel_shares(w))));
        if let Some(q) = quota_usec {
            settings.push(Setting::new(quota, "cpu.cfs_period_us", CPU_PERIOD_USEC));
            settings.push(Setting::new(quota, "cpu.cfs_quota_us", q));
        }
    }
    settings
}

/// Writes for the pids controller.
pub(super) fn pids(limits: &Limits) -> Vec<Setting> {
    limits.pids_max.map(|n| Setting::new("resources.pids_max", "pids.max", n)).into_iter().collect()
}

/// Writes for the version 1 devices controller.
pub(super) fn devices(limits: &Limits) -> Vec<Setting> {
    let also = match limits.devices {
        Devices::Any => return Vec::new(),
        Devices::Stock => &[],
        Devices::StockAnd(also) => also,
    };
    std::iter::once(Setting::new("devices", "devices.deny", "a"))
        .chain(STOCK_DEVICES.into_iter().map(|rule| Setting::new("devices", "devices.allow", rule)))
        .chain(
            also.iter()
                .map(|(major, minor)| Setting::new("devices", "devices.allow", format!("c {major}:{minor} rwm"))),
        )
        .collect()
}

/// The version 1 number that the scheduler treats like a version 2 weight: the kernel's own conversion, so that the same
/// weights give the same proportions on every host. (The curve of [`weight_from_shares`] does not keep proportions.)
fn kernel_shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 + 50) / 100
}

/// Lowest share the kernel takes.
const SHARES_MIN: u64 = 2;
/// Highest share the kernel takes.
const SHARES_MAX: u64 = 262_144;

/// Brings CPU shares of a job file (MHz) into the kernel's range. A host with more compute than the range holds has all its
/// shares scaled, so that proportions survive; what is below the lowest becomes the lowest.
pub fn shares_clamped(shares: u64, host_total: u64) -> u64 {
    let scaled = if host_total >= SHARES_MAX {
        u64::try_from(u128::from(shares) * u128::from(SHARES_MAX) / u128::from(host_total)).unwrap_or(SHARES_MAX)
    } else {
        shares
    };
    scaled.clamp(SHARES_MIN, SHARES_MAX)
}

/// Turns version 1 shares into a weight by the newer logarithmic curve of the OCI runtimes: 2 becomes 1, 1024 becomes
/// 100 (the old linear map gave 39, so a default group lost against everything else), 262144 becomes 10000.
pub fn weight_from_shares(shares: u64) -> u32 {
    let shares = shares.clamp(SHARES_MIN, SHARES_MAX);
    let log = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The exponent is within 0 to 4: the cast neither cuts nor wraps. Rounding off the last digits keeps 1024 at 100
    // where the floating point says 100.0000000001.
    let weight = (10f64.powf(exponent) - 1e-6).ceil();
    (weight as u32).clamp(1, 10_000)
}

/// CPUs of a list in the kernel's format, `0-2,5`.
pub(super) fn parse_cpu_list(list: &str) -> Option<BTreeSet<u32>> {
    /// More than any kernel is built for; keeps `0-4294967295` from being expanded.
    const CPUS_MAX: u32 = 8192;
    let mut cpus = BTreeSet::new();
    for part in list.trim().split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (u32, u32) = (low.parse().ok()?, high.parse().ok()?);
        if low > high || high >= CPUS_MAX {
            return None;
        }
        cpus.extend(low..=high);
    }
    Some(cpus)
}
