//! Numbers of a client: what there is, what is kept back, what bounds what.

use std::time::Duration;

use moat_model::units::parse_bytes;

use super::ClientConfig;
use crate::fields::Fields;

/// What there is, where the operator knows better.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// MHz of all cores.
    pub cpu_mhz: Option<u64>,
    /// MiB.
    pub memory_mb: Option<u64>,
    /// MiB.
    pub disk_mb: Option<u64>,
}

/// What is not for jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserved {
    /// MHz.
    pub cpu_mhz: Option<u64>,
    /// CPUs, in the kernel's list format.
    pub cores: Option<String>,
    /// MiB.
    pub memory_mb: Option<u64>,
    /// MiB.
    pub disk_mb: Option<u64>,
    /// Ports and ranges.
    pub ports: Option<String>,
}

/// Bounds on artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArtifactLimits {
    /// One fetch over HTTP.
    pub http_timeout: Option<Duration>,
    /// Bytes of it.
    pub http_bytes_max: Option<u64>,
    /// One fetch from git.
    pub git_timeout: Option<Duration>,
    /// One fetch from S3.
    pub s3_timeout: Option<Duration>,
    /// Files of an archive.
    pub files_max: Option<u64>,
    /// Bytes of them.
    pub unpacked_bytes_max: Option<u64>,
    /// Paths the fetching child may read.
    pub paths_allowed: Option<Vec<String>>,
    /// Variables it gets.
    pub env_allowed: Option<Vec<String>>,
}

/// What is removed when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collection {
    /// How often is looked.
    pub interval: Option<Duration>,
    /// Removed at once.
    pub parallel: Option<u32>,
    /// Percent of the disk.
    pub disk_percent: Option<u8>,
    /// Percent of the inodes.
    pub inode_percent: Option<u8>,
    /// Allocations kept.
    pub allocs_max: Option<u32>,
}

/// How a node is emptied before it ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrainOnShutdown {
    /// Whatever is left then is stopped.
    pub deadline: Option<Duration>,
    /// At once.
    pub force: bool,
    /// System jobs stay.
    pub ignore_system: bool,
}

pub(super) fn limits(fields: &Fields<'_>, config: &mut ClientConfig) {
    let greatest = i64::MAX;
    config.totals = Totals {
        cpu_mhz: fields.whole("cpu_total_compute", 0, greatest).filter(|n| *n > 0),
        memory_mb: fields.whole("memory_total_mb", 0, greatest).filter(|n| *n > 0),
        disk_mb: fields.whole("disk_total_mb", 0, greatest).filter(|n| *n > 0),
    };
    config.collection = Collection {
        interval: fields.span("gc_interval"),
        parallel: fields.whole("gc_parallel_destroys", 1, 1000),
        disk_percent: percent(fields, "gc_disk_usage_threshold"),
        inode_percent: percent(fields, "gc_inode_usage_threshold"),
        allocs_max: fields.count("gc_max_allocs"),
    };
    if let Some(part) = fields.block("reserved") {
        let inner = Fields::of(&part, fields, "reserved", "reserved".to_owned());
        config.reserved = Reserved {
            cpu_mhz: inner.whole("cpu", 0, greatest),
            cores: inner.word("cores"),
            memory_mb: inner.whole("memory", 0, greatest),
            disk_mb: inner.whole("disk", 0, greatest),
            ports: inner.word("reserved_ports"),
        };
        inner.finish(&[]);
    }
    artifact(fields, config);
    template(fields, config);
    if let Some(part) = fields.block("drain_on_shutdown") {
        let inner = Fields::of(&part, fields, "drain_on_shutdown", "drain_on_shutdown".to_owned());
        config.drain_on_shutdown = Some(DrainOnShutdown {
            deadline: inner.span("deadline"),
            force: inner.flag("force").unwrap_or(false),
            ignore_system: inner.flag("ignore_system_jobs").unwrap_or(false),
        });
        inner.finish(&[]);
    }
}

/// Nomad takes fractions; a hundredth is fine enough.
fn percent(fields: &Fields<'_>, name: &'static str) -> Option<u8> {
    let given = fields.number(name)?;
    let whole = (1..=100u8).find(|percent| f64::from(*percent) >= given).filter(|_| given > 0.0 && given <= 100.0);
    if whole.is_none() {
        fields.refuse(name, format!("{name} is a percentage, 1 to 100"), "");
    }
    whole
}

fn size(fields: &Fields<'_>, name: &'static str) -> Option<u64> {
    let text = fields.word(name)?;
    let bytes = parse_bytes(&text);
    if bytes.is_none() {
        fields.refuse(name, format!("{text:?} is not a size"), "sizes are such as \"100GB\" or \"64MiB\"");
    }
    bytes
}

fn artifact(fields: &Fields<'_>, config: &mut ClientConfig) {
    let Some(part) = fields.block("artifact") else { return };
    let inner = Fields::of(&part, fields, "artifact", "artifact".to_owned());
    config.artifact = ArtifactLimits {
        http_timeout: inner.span("http_read_timeout"),
        http_bytes_max: size(&inner, "http_max_size"),
        git_timeout: inner.span("git_timeout"),
        s3_timeout: inner.span("s3_timeout"),
        files_max: inner.whole("decompression_file_count_limit", 0, i64::MAX),
        unpacked_bytes_max: size(&inner, "decompression_size_limit"),
        paths_allowed: inner
            .words("filesystem_isolation_extra_paths")
            .map(|paths| paths.iter().map(|p| host_path(p)).collect()),
        env_allowed: inner.word("set_environment_variables").map(|names| list(&names)),
    };
    for name in ["disable_filesystem_isolation", "disable_artifact_inspection"] {
        if inner.flag(name) == Some(true) {
            inner.refuse(
                name,
                format!("{name} is not supported"),
                "artifacts are always fetched in isolation: leave it out",
            );
        }
    }
    inner.ignore(&[
        ("gcs_timeout", "nothing is fetched by Google's own protocol"),
        ("hg_timeout", "nothing is fetched from Mercurial"),
    ]);
    inner.finish(&[]);
}

/// Landlock's notation of Nomad, `d:r:/path`, or a path.
fn host_path(text: &str) -> String {
    match text.splitn(3, ':').collect::<Vec<_>>().as_slice() {
        [_, _, path] => (*path).to_owned(),
        _ => text.to_owned(),
    }
}

/// Words between commas.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn template(fields: &Fields<'_>, config: &mut ClientConfig) {
    let Some(part) = fields.block("template") else { return };
    let inner = Fields::of(&part, fields, "template", "template".to_owned());
    config.template_functions_denied = inner.words("function_denylist").or_else(|| inner.words("function_blacklist"));
    if inner.flag("disable_file_sandbox") == Some(true) {
        let fix = "templates read the task's own files only: leave it out";
        inner.refuse("disable_file_sandbox", "disable_file_sandbox is not supported", fix);
    }
    inner.ignore(&[
        ("max_stale", "templates read the cluster's state as it is"),
        ("wait", "templates are rendered when what they show changes"),
        ("wait_bounds", "templates are rendered when what they show changes"),
        ("block_query_wait", "there is no Consul"),
        ("consul_retry", "there is no Consul"),
        ("vault_retry", "there is no Vault"),
        ("nomad_retry", "reads of the cluster's state are repeated by themselves"),
    ]);
    inner.finish(&[]);
}
