//! The system calls a sandbox may make.
//!
//! An allow-list in the shape of the default profile of container engines, narrowed where a sandbox of ours never needs
//! what they leave open; the table is [`table`], and `docs/seccomp.md` is generated from it. Two programs are installed:
//!
//! 1. the allow-list: anything else fails with `EPERM`; a call through another architecture's entry kills the process;
//! 2. a short one after it: `clone3`, whose flags lie in memory a filter cannot read, and every call younger than the
//!    table fail with `ENOSYS`, which makes a libc fall back to what it used before. Installed last, its answer wins over the
//!    `EPERM` of the first one; it allows nothing by itself.
//!
//! What a capability opens is in the table too. Capabilities that mean nothing in a user namespace open nothing.

mod table;

#[cfg(test)]
mod document;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::capability;
use table::{Arguments, Condition};

/// The table could not be compiled: only possible on an architecture it was not written for.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// No table for it.
    #[error("seccomp: no list of system calls for {0}")]
    Architecture(&'static str),
    /// The compiler refused it.
    #[error("seccomp: compiling the list of system calls")]
    Compile(#[from] seccompiler::BackendError),
}

impl From<SeccompError> for moat_engine::Error {
    fn from(error: SeccompError) -> Self {
        Self::caused_by(moat_model::ErrorKind::Internal, "system call filter", error)
    }
}

/// The programs for a process with these capabilities, as raw `sock_filter` arrays in the order of their installation.
///
/// Compiled once for each set of capabilities that differ in what they open: there are at most 64 of those.
pub fn default_filters(capabilities: u64) -> Result<Vec<Vec<u8>>, SeccompError> {
    static COMPILED: Mutex<BTreeMap<u64, Vec<Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let opening = capabilities & opening_mask();
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filters) = compiled.get(&opening) {
        return Ok(filters.clone());
    }
    let filters = vec![to_bytes(&allow_list(opening, &[])?), to_bytes(&not_implemented()?)];
    compiled.insert(opening, filters.clone());
    Ok(filters)
}

/// The same for a program that serves files: each of its threads has a working directory of its own, for which `unshare` takes
/// [`libc::CLONE_FS`] and here nothing else.
pub fn filters_of_file_server(capabilities: u64) -> Result<Vec<Vec<u8>>, SeccompError> {
    let own_directory = Arguments::OneOf { at: 0, values: &[libc::CLONE_FS as u32] };
    let unshare = (libc::SYS_unshare, rule_chain(&own_directory, capabilities)?);
    Ok(vec![to_bytes(&allow_list(capabilities & opening_mask(), &[unshare])?), to_bytes(&not_implemented()?)])
}

/// The capabilities that open anything.
fn opening_mask() -> u64 {
    let calls = table::OPENED.iter().map(|opened| opened.capability);
    let arguments = table::CONDITIONAL.iter().filter_map(|conditional| conditional.lifted_by);
    calls
        .chain(arguments)
        .chain(table::FAMILIES_OPENED.iter().map(|(name, _)| *name))
        .filter_map(capability::bit)
        .fold(0, |a, b| a | b)
}

fn has(capabilities: u64, name: &str) -> bool {
    capability::bit(name).is_some_and(|bit| capabilities & bit != 0)
}

fn architecture() -> Result<TargetArch, SeccompError> {
    TargetArch::try_from(std::env::consts::ARCH).map_err(|_| SeccompError::Architecture(std::env::consts::ARCH))
}

fn allow_list(capabilities: u64, also: &[(i64, Vec<SeccompRule>)]) -> Result<BpfProgram, SeccompError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (_, call) in table::ALLOWED.iter().chain(table::ALLOWED_LEGACY) {
        rules.insert(*call, Vec::new());
    }
    for opened in table::OPENED.iter().filter(|opened| has(capabilities, opened.capability)) {
        rules.extend(opened.calls.iter().map(|(_, call)| (*call, Vec::new())));
    }
    for conditional in table::CONDITIONAL {
        let lifted = conditional.lifted_by.is_some_and(|name| has(capabilities, name));
        let chain = if lifted { Vec::new() } else { rule_chain(&conditional.arguments, capabilities)? };
        rules.insert(conditional.call.1, chain);
    }
    rules.extend(also.iter().cloned());
    let filter =
        SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, architecture()?)?;
    Ok(filter.try_into()?)
}

/// Rules of a call are alternatives; conditions of a rule must all hold. Arguments are compared as the 32 bits the kernel
/// itself looks at: comparing 64 would let a set upper bit slip a forbidden value through.
fn rule_chain(arguments: &Arguments, capabilities: u64) -> Result<Vec<SeccompRule>, SeccompError> {
    let condition = |at, op, value: u32| SeccompCondition::new(at, SeccompCmpArgLen::Dword, op, u64::from(value));
    let mut chain = Vec::new();
    match arguments {
        Arguments::OneOf { at, values } => {
            for value in *values {
                chain.push(SeccompRule::new(vec![condition(*at, SeccompCmpOp::Eq, *value)?])?);
            }
        }
        Arguments::NoneOf { at, values } => {
            let all: Result<Vec<_>, _> = values.iter().map(|value| condition(*at, SeccompCmpOp::Ne, *value)).collect();
            chain.push(SeccompRule::new(all?)?);
        }
        Arguments::WithoutBits { at, mask } => {
            chain.push(SeccompRule::new(vec![condition(*at, SeccompCmpOp::MaskedEq(u64::from(*mask)), 0)?])?);
        }
        Arguments::Sockets => {
            let opened =
                table::FAMILIES_OPENED.iter().filter(|(name, _)| has(capabilities, name)).map(|(_, also)| *also);
            for Condition { family, protocol } in table::FAMILIES.iter().copied().chain(opened) {
                let mut both = vec![condition(0, SeccompCmpOp::Eq, family.1)?];
                if let Some(protocol) = protocol {
                    both.push(condition(2, SeccompCmpOp::Eq, protocol.1)?);
                }
                chain.push(SeccompRule::new(both)?);
            }
        }
    }
    Ok(chain)
}

/// Written by hand: the compiler knows no "greater than" for call numbers.
fn not_implemented() -> Result<BpfProgram, SeccompError> {
    let audit = match architecture()? {
        TargetArch::x86_64 => 0xC000_003E,
        TargetArch::aarch64 => 0xC000_00B7,
        TargetArch::riscv64 => 0xC000_00F3,
    };
    let (load, equal, at_least, answer) = (0x20, 0x15, 0x35, 0x06);
    let enosys = 0x0005_0000 | libc::ENOSYS as u32;
    let allow = 0x7fff_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    Ok(vec![
        // Another architecture: the first program kills.
        step(load, 0, 0, 4),
        step(equal, 0, 4, audit),
        step(load, 0, 0, 0),
        // The x32 numbers of x86-64 begin here; they are refused by the first program.
        step(at_least, 2, 0, 0x4000_0000),
        step(equal, 2, 0, table::CLONE3.1 as u32),
        step(at_least, 1, 0, table::LAST_KNOWN + 1),
        step(answer, 0, 0, allow),
        step(answer, 0, 0, enosys),
    ])
}

fn to_bytes(program: &BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for step in program {
        bytes.extend_from_slice(&step.code.to_ne_bytes());
        bytes.extend_from_slice(&[step.jt, step.jf]);
        bytes.extend_from_slice(&step.k.to_ne_bytes());
    }
    bytes
}
