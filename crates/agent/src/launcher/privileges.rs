//! What the agent itself may do: what its programs may be given, and the little it needs to be their parent.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::LaunchError;

/// Become any user, run a program for one and end it, give a terminal away, listen on a low forwarded port.
const OF_THE_AGENT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETUID);

/// Gives up, for ever, every capability that is neither in `programs` nor the agent's own.
pub fn reduce(programs: u64) -> Result<(), LaunchError> {
    let kept = CapabilitySet::from_bits_retain(programs) | OF_THE_AGENT;
    let failed = |e: Errno| LaunchError::new("drop capabilities", e);
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                remove_capability_from_bounding_set(capability).map_err(failed)?
            }
            Ok(_) => {}
            // Past the last one this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    clear_ambient_capability_set().map_err(failed)?;
    let mut sets = rustix::thread::capabilities(None).map_err(failed)?;
    sets = CapabilitySets {
        permitted: sets.permitted & kept,
        effective: sets.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed)
}
