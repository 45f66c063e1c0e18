//! What the agent itself may do: as little as starting programs for others needs.

use moat_agent::launch::AgentConfig;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_child_subreaper, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// To start programs as other users, to signal them, to give them a terminal, to look their files up and make them executable.
const NEEDED: CapabilitySet = CapabilitySet::KILL
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Makes this process unreadable to those it watches over, the parent of orphans, and no stronger than it must be.
pub fn lower(config: &AgentConfig) -> Result<(), Errno> {
    let own = rustix::process::getpid();
    if !own.is_init() {
        set_child_subreaper(Some(own))?;
    }
    let Some(mask) = bound(config)? else { return Ok(()) };
    let mut wanted = mask | NEEDED;
    if !config.no_new_privs && !config.seccomp.is_empty() {
        // What the kernel wants for a filter without no_new_privs; it is not among what programs get.
        wanted |= CapabilitySet::SYS_ADMIN;
    }
    let permitted = capabilities(None)?.permitted & wanted;
    set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() })
}

/// Sees to it that no program gets more than it should, and that nobody looks into this process. It keeps what it has: the first
/// process of a machine goes on looking after it.
pub fn bound(config: &AgentConfig) -> Result<Option<CapabilitySet>, Errno> {
    // Nobody inside can attach to it or read its memory, whatever user it shares with them.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let Some(mask) = config.capabilities else { return Ok(None) };
    let mask = CapabilitySet::from_bits_retain(mask);
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !mask.contains(capability) => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            // The first one this kernel does not know.
            Err(_) => break,
        }
    }
    Ok(Some(mask))
}
