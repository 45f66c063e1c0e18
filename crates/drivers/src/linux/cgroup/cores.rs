//! CPUs of a group's own.
//!
//! The operator sets some aside. A group that asks for whole ones gets the lowest that are free, every other group runs on
//! the rest. Which ones a group has is written on the group itself, as an attribute of its directories: it is there as long as
//! the group is, whatever becomes of the daemon, and goes with it, so nothing is given twice and nothing is lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use super::limits::{self, Limits};
use super::tree::Hierarchy;
use super::{CgroupError, Result};

const FIELD: &str = "resources.cores";

/// Where the operator sets them aside.
const SET_ASIDE: &str = "jobs.capacity.cores";

/// Only who administers the host can read or write it.
const ATTRIBUTE: &str = "trusted.moat.cpus";

/// Every CPU of the largest machine, each by itself.
const LIST_LEN_MAX: usize = 64 << 10;

/// Drivers have a hierarchy each, and one set of CPUs between them.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for whoever is choosing.
pub(super) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hierarchy {
    /// Sets CPUs aside for groups that ask for some of their own; at least one must be left for the others.
    pub fn with_exclusive(mut self, list: Option<&str>) -> Result<Self> {
        let Some(list) = list else { return Ok(self) };
        let invalid = |why: String| CgroupError::Invalid { field: SET_ASIDE, why };
        let exclusive = limits::parse_cpu_list(list)
            .ok_or_else(|| invalid(format!("{list:?} is not a list of CPUs such as 2-3,5")))?;
        let Some(present) = self.cpus()? else {
            let why = "this host has no cpuset controller: enable it in the kernel".to_owned();
            return Err(CgroupError::Unsupported { field: SET_ASIDE, why });
        };
        if let Some(cpu) = exclusive.difference(&present).next() {
            return Err(invalid(format!("CPU {cpu} does not exist on this host")));
        }
        if exclusive == present {
            return Err(invalid(format!("{list} are all there are: leave one for everything else")));
        }
        self.exclusive = exclusive;
        Ok(self)
    }

    pub(super) fn check_cores(&self, limits: &Limits) -> Result<()> {
        let invalid = |field, why: String| Err(CgroupError::Invalid { field, why });
        if let Some(count) = limits.cores {
            if self.exclusive.is_empty() {
                let why = format!("no CPUs are set aside on this node: its operator can, with {SET_ASIDE}");
                return Err(CgroupError::Unsupported { field: FIELD, why });
            }
            if limits.cpuset.is_some() {
                return invalid(FIELD, "which CPUs these are is not the asker's to say: leave cpuset out".to_owned());
            }
            let all = self.exclusive.len();
            if count == 0 || usize::try_from(count).map_or(true, |count| count > all) {
                return invalid(FIELD, format!("{count} is not within 1 to {all}, the CPUs set aside"));
            }
        }
        let asked = limits.cpuset.as_deref().and_then(limits::parse_cpu_list).unwrap_or_default();
        match asked.intersection(&self.exclusive).next() {
            Some(cpu) => invalid("resources.cpuset", format!("CPU {cpu} is set aside for those who ask for cores")),
            None => Ok(()),
        }
    }

    /// The list a new group runs on. The caller has the turn.
    pub(super) fn cpus_for(&self, name: &str, limits: &Limits) -> Result<String> {
        if let Some(list) = &limits.cpuset {
            return Ok(list.clone());
        }
        let Some(count) = limits.cores else {
            let present = self.cpus()?.unwrap_or_default();
            return Ok(list_of(&present.difference(&self.exclusive).copied().collect()));
        };
        let mut taken = BTreeSet::new();
        for other in self.list()?.iter().filter(|other| *other != name) {
            taken.extend(self.own_cpus(other)?);
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let free: BTreeSet<u32> = self.exclusive.difference(&taken).copied().collect();
        if free.len() < count {
            let why = format!("{count} were asked for, {} of {} are free", free.len(), list_of(&self.exclusive));
            return Err(CgroupError::Exhausted { field: FIELD, why });
        }
        Ok(list_of(&free.into_iter().take(count).collect()))
    }

    /// Says on the group that it has these.
    pub(super) fn mark(&self, name: &str, list: &str) -> Result<()> {
        for (_, dir) in self.existing(name) {
            setxattr(&dir, ATTRIBUTE, list.as_bytes(), XattrFlags::empty())
                .map_err(|e| CgroupError::io("writing down the CPUs of", &dir)(e.into()))?;
        }
        Ok(())
    }

    /// CPUs a group has of its own; none if it shares.
    pub fn own_cpus(&self, name: &str) -> Result<BTreeSet<u32>> {
        let mut own = BTreeSet::new();
        for (_, dir) in self.existing(name) {
            own.extend(read(&dir)?);
        }
        Ok(own)
    }
}

fn read(dir: &Path) -> Result<BTreeSet<u32>> {
    let mut text = vec![0_u8; LIST_LEN_MAX];
    match getxattr(dir, ATTRIBUTE, &mut text[..]) {
        Ok(length) => {
            let list = text.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
            Ok(list.and_then(limits::parse_cpu_list).unwrap_or_default())
        }
        // None was ever written, or the group has just gone.
        Err(Errno::NODATA | Errno::NOENT) => Ok(BTreeSet::new()),
        Err(errno) => Err(CgroupError::io("reading the CPUs of", dir)(errno.into())),
    }
}

/// In the kernel's format, every CPU by itself.
fn list_of(cpus: &BTreeSet<u32>) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
