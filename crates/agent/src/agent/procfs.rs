//! Processes, from `/proc`.

use std::collections::{BTreeMap, BTreeSet};

use moat_agent::protocol::{GuestProcess, GuestStats};

/// Longest command line told.
const COMMAND_LEN_MAX: usize = 4 << 10;
/// Processes listed; a sandbox with more has a limit set wrongly, and the reply must fit into a frame.
const LISTED_MAX: usize = 4096;
/// Bytes of command lines listed altogether: half of what a header frame holds, for JSON may double them.
const LISTED_LEN_MAX: usize = 512 << 10;

/// The fields of `/proc/<pid>/stat` that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    state: u8,
    ppid: u32,
    /// Ticks after the start of the machine: with its id it names a process for ever.
    begun: u64,
    ticks: u64,
    rss_pages: u64,
}

impl Stat {
    /// Somebody has stopped it, or traces it and has.
    pub fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// No instruction of it is executed, nor will be before it has seen the signals it was sent: it is stopped, it has
    /// ended, or it is deep in the kernel.
    pub fn is_still(self) -> bool {
        matches!(self.state, b'T' | b't' | b'Z' | b'X' | b'D')
    }
}

/// What runs under this id now, if it is the same process.
pub fn is_the_same(pid: u32, then: Stat) -> bool {
    stat_of(pid).is_some_and(|now| now.begun == then.begun)
}

/// The processes of [`processes`] without this one.
pub fn others(own_namespace: bool) -> BTreeMap<u32, Stat> {
    let mut all = visible(own_namespace);
    all.remove(&std::process::id());
    all
}

/// Every process this agent answers for: all there are in a pid namespace of its own, else its descendants and itself.
pub fn processes(own_namespace: bool) -> Vec<GuestProcess> {
    let ticks_per_second = crate::sys::clock_ticks();
    let page = crate::sys::page_size();
    let mut room = LISTED_LEN_MAX;
    let mut listed = Vec::new();
    for (pid, stat) in visible(own_namespace).into_iter().take(LISTED_MAX) {
        let Some(uid) = uid_of(pid) else { continue };
        let mut command = command_of(pid);
        command.truncate(command.floor_char_boundary(room.min(COMMAND_LEN_MAX)));
        room -= command.len();
        listed.push(GuestProcess {
            pid,
            ppid: stat.ppid,
            uid,
            command,
            rss_bytes: stat.rss_pages * page,
            cpu_usec: stat.ticks.saturating_mul(1_000_000) / ticks_per_second,
        });
    }
    listed
}

/// Sums over the same processes.
pub fn stats(own_namespace: bool) -> GuestStats {
    let ticks_per_second = crate::sys::clock_ticks();
    let page = crate::sys::page_size();
    let own = std::process::id();
    let mut sum = GuestStats::default();
    for (pid, stat) in visible(own_namespace) {
        sum.processes += 1;
        sum.rss_bytes += stat.rss_pages * page;
        sum.cpu_usec += stat.ticks.saturating_mul(1_000_000) / ticks_per_second;
        if pid == own {
            sum.agent_rss_bytes = stat.rss_pages * page;
        }
    }
    sum
}

/// Direct children of this process that are not reaped yet.
pub fn children() -> Vec<u32> {
    let own = std::process::id();
    match std::fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        Ok(list) => list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        // A kernel without CONFIG_PROC_CHILDREN.
        Err(_) => all().into_iter().filter(|(_, stat)| stat.ppid == own).map(|(pid, _)| pid).collect(),
    }
}

fn visible(own_namespace: bool) -> BTreeMap<u32, Stat> {
    let all = all();
    if own_namespace {
        return all;
    }
    let mut family = BTreeSet::from([std::process::id()]);
    // Parents may have higher ids than their children, so go round until nobody new turns up.
    loop {
        let before = family.len();
        for (pid, stat) in &all {
            if family.contains(&stat.ppid) {
                family.insert(*pid);
            }
        }
        if family.len() == before {
            return all.into_iter().filter(|(pid, _)| family.contains(pid)).collect();
        }
    }
}

fn all() -> BTreeMap<u32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, stat_of(pid)?))
        })
        .collect()
}

fn stat_of(pid: u32) -> Option<Stat> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&stat))
}

/// The name is in parentheses and may hold anything, parentheses too, so fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // Field 3 of proc(5) is the first after the name.
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        begun: number(22 - 3)?,
        ppid: u32::try_from(number(4 - 3)?).ok()?,
        ticks: number(14 - 3)?.saturating_add(number(15 - 3)?),
        rss_pages: number(24 - 3)?,
    })
}

fn uid_of(pid: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn command_of(pid: u32) -> String {
    let read = |file: &str| {
        use std::io::Read;
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(format!("/proc/{pid}/{file}"));
        let _ = opened.and_then(|f| f.take(COMMAND_LEN_MAX as u64).read_to_end(&mut bytes));
        bytes
    };
    let mut line = read("cmdline");
    while line.last() == Some(&0) {
        line.pop();
    }
    if line.is_empty() {
        // A zombie, or a process that emptied it.
        return format!("[{}]", String::from_utf8_lossy(&read("comm")).trim_end());
    }
    for byte in &mut line {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    String::from_utf8_lossy(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let line = "42 (a) R 1) S 7 42 42 0 -1 4194304 1 0 0 0 11 22 0 0 20 0 1 0 100 4096 33 18446744073709551615";
        assert_eq!(parse_stat(line), Some(Stat { state: b'S', ppid: 7, begun: 100, ticks: 33, rss_pages: 33 }));
        for bad in ["", "42 (x", "42 (x) S 1", ") S a b"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_process_sees_itself() {
        let own = std::process::id();
        let listed = processes(false);
        assert!(listed.iter().any(|p| p.pid == own && p.rss_bytes > 0), "{listed:?}");
        let stats = stats(false);
        assert!(stats.processes >= 1 && stats.agent_rss_bytes > 0);
    }
}
