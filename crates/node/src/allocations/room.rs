//! Whether there is room for one more: the node has the last word about what was placed on it.

use moat_model::job::TaskGroup;
use moat_model::job::cluster::Capacity;

use super::front::Assignment;
use super::table::Shared;

/// Why it cannot be taken.
pub(super) fn refusal(shared: &Shared, assignment: &Assignment) -> Option<String> {
    let has = shared.base.facts.capacity;
    let mut used = assignment.group().map(needs).unwrap_or_default();
    for view in shared.views().iter().filter(|view| !view.status.client.is_terminal()) {
        let more = view.assignment.group().map(needs).unwrap_or_default();
        used.cpu_mhz += more.cpu_mhz;
        used.cores += more.cores;
        used.memory_mb += more.memory_mb;
        used.disk_mb += more.disk_mb;
    }
    let rows = [
        ("cpu", used.cpu_mhz, has.cpu_mhz, "MHz"),
        ("memory", used.memory_mb, has.memory_mb, "MiB"),
        ("disk", used.disk_mb, has.disk_mb, "MiB"),
    ];
    // A capacity of zero was never measured.
    let short = rows.into_iter().find(|(_, used, has, _)| *has > 0 && used > has);
    short.map(|(what, used, has, unit)| format!("no room: {what}: {used} {unit} would be in use of {has}"))
}

/// What a group needs: its tasks at the same time.
fn needs(group: &TaskGroup) -> Capacity {
    let sum = |of: fn(&moat_model::job::Task) -> u32| group.tasks.iter().map(|task| u64::from(of(task))).sum();
    Capacity {
        cpu_mhz: sum(|task| task.resources.cpu_mhz),
        cores: group.tasks.iter().map(|task| task.resources.cores).sum(),
        memory_mb: sum(|task| task.resources.memory_mb),
        disk_mb: u64::from(group.ephemeral_disk.size_mb),
    }
}
