//! Limits as the API writes them, and as the engine takes them.

use moat_api::rest::sandbox::ResourceLimits;
use moat_model::spec::Resources;

use crate::error::{Error, Result};

/// One MiB.
const MIB: u64 = 1 << 20;
/// A tebibyte, in MiB: more than that is a mistake in the unit.
const MIB_MAX: u64 = 1 << 20;
/// The agent alone needs two.
const MEMORY_MIB_MIN: u64 = 8;
/// More cores than any machine has.
const VCPU_MAX: f64 = 1024.0;
/// A hundredth of a core: the kernel's smallest quota.
const VCPU_MIN: f64 = 0.01;
/// The agent, a shell and what it starts.
const PIDS_MIN: u32 = 4;
/// The kernel's own bound.
const PIDS_MAX: u32 = 4_194_304;

/// Checks limits; `table` names them in a refusal.
pub fn parse(table: &str, limits: &ResourceLimits) -> Result<Resources> {
    let refuse = |field: &str, why: String| Err(Error::invalid(&format!("{table}.{field}"), why));
    if let Some(vcpu) = limits.vcpu
        && !(VCPU_MIN..=VCPU_MAX).contains(&vcpu)
    {
        return refuse("vcpu", format!("{vcpu} cores: must lie within {VCPU_MIN} and {VCPU_MAX}"));
    }
    for (field, given, least) in [("memory_mb", limits.memory_mb, MEMORY_MIB_MIN), ("disk_mb", limits.disk_mb, 1)] {
        if let Some(given) = given
            && !(least..=MIB_MAX).contains(&given)
        {
            return refuse(field, format!("{given} MiB: must lie within {least} and {MIB_MAX}"));
        }
    }
    if let Some(weight) = limits.cpu_weight
        && !(1..=10_000).contains(&weight)
    {
        return refuse("cpu_weight", format!("{weight}: must lie within 1 and 10000; 100 is one share"));
    }
    if let Some(pids) = limits.pids
        && !(PIDS_MIN..=PIDS_MAX).contains(&pids)
    {
        return refuse("pids", format!("{pids}: must lie within {PIDS_MIN} and {PIDS_MAX}"));
    }
    Ok(Resources {
        memory_bytes: limits.memory_mb.map(|m| m.saturating_mul(MIB)),
        cpu_weight: limits.cpu_weight,
        cpu_quota_millis: limits.vcpu.map(millis),
        pids_max: limits.pids,
        disk_bytes: limits.disk_mb.map(|m| m.saturating_mul(MIB)),
        ..Resources::default()
    })
}

/// What a sandbox of the API has if neither it, its template nor the operator says otherwise. The writable layer lies in
/// memory: with room for as much again, a full disk is told to the program that fills it, not settled by the kernel.
pub fn with_room(operators: &Resources) -> Resources {
    let mut resources = operators.clone();
    resources.memory_bytes.get_or_insert(512 * MIB);
    resources.disk_bytes.get_or_insert(256 * MIB);
    resources
}

/// Thousandths of a core, of a number that was checked.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 10 and 1024000")]
fn millis(vcpu: f64) -> u32 {
    (vcpu * 1000.0).round() as u32
}

/// Limits for a reply. Rounded down to whole MiB.
pub fn shown(resources: &Resources) -> ResourceLimits {
    ResourceLimits {
        vcpu: resources.cpu_quota_millis.map(|m| f64::from(m) / 1000.0),
        memory_mb: resources.memory_bytes.map(|b| b / MIB),
        cpu_weight: resources.cpu_weight,
        pids: resources.pids_max,
        disk_mb: resources.disk_bytes.map(|b| b / MIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_shown_again() {
        let asked = ResourceLimits {
            vcpu: Some(1.5),
            memory_mb: Some(512),
            cpu_weight: Some(200),
            pids: Some(64),
            disk_mb: Some(100),
        };
        let resources = parse("resources", &asked).unwrap();
        assert_eq!((resources.cpu_quota_millis, resources.memory_bytes), (Some(1500), Some(512 << 20)));
        assert_eq!(shown(&resources), asked);
        assert_eq!(parse("resources", &ResourceLimits::default()).unwrap(), Resources::default());
    }

    #[test]
    fn limits_that_cannot_be_meant_name_field_and_fix() {
        let no = ResourceLimits::default;
        for (limits, field) in [
            (ResourceLimits { vcpu: Some(0.0), ..no() }, "vcpu"),
            (ResourceLimits { vcpu: Some(-1.0), ..no() }, "vcpu"),
            (ResourceLimits { vcpu: Some(f64::NAN), ..no() }, "vcpu"),
            (ResourceLimits { vcpu: Some(f64::INFINITY), ..no() }, "vcpu"),
            (ResourceLimits { memory_mb: Some(0), ..no() }, "memory_mb"),
            (ResourceLimits { memory_mb: Some(u64::MAX), ..no() }, "memory_mb"),
            (ResourceLimits { disk_mb: Some(0), ..no() }, "disk_mb"),
            (ResourceLimits { cpu_weight: Some(0), ..no() }, "cpu_weight"),
            (ResourceLimits { pids: Some(1), ..no() }, "pids"),
        ] {
            let refusal = parse("resources", &limits).unwrap_err();
            assert_eq!(refusal.kind, moat_model::ErrorKind::InvalidSpec);
            let text = refusal.to_string();
            assert!(text.starts_with(&format!("resources.{field}: ")) && text.contains("must lie within"), "{text}");
        }
    }
}
