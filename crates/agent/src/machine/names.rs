//! What the machine is called, in the kernel and in the files of its root.
//!
//! The files lie beside the root and are shown over it; a renewal writes into them where they lie, so whoever has one open reads
//! the new name too.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use moat_agent::protocol::machine::{GuestNetwork, Identity};
use moat_model::ErrorKind;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::agent::Failure;
use crate::launcher::LaunchError;
use crate::launcher::names::{self, Text, Wire};
use crate::launcher::tree::Tree;

/// Where the files lie, beside the root.
const DIRECTORY: &str = "names";
/// The one that says which machine it is.
const MACHINE_ID: &str = "machine-id";
/// A name is short; what is read back is no longer.
const READ_MAX: u64 = 4 << 10;

/// Refuses what would not be one name or one id.
pub fn check(identity: &Identity) -> Result<(), Failure> {
    let Identity { hostname, machine_id, network } = identity;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !plain(hostname) || hostname.len() > 64 {
        return Err(Failure::invalid(format!("identity.hostname: {hostname:?} is no host name")));
    }
    if machine_id.len() != 32 || !machine_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Failure::invalid("identity.machine_id: 32 lower-case hex digits"));
    }
    if let Some(GuestNetwork { search, name, .. }) = network {
        for (field, text) in [("search", Some(search).filter(|search| !search.is_empty())), ("name", name.as_ref())] {
            if text.is_some_and(|text| !plain(text)) {
                return Err(Failure::invalid(format!("identity.network.{field}: {text:?} is no name")));
            }
        }
    }
    Ok(())
}

/// Whose list of resolvers a root has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// One that names the network's own.
    Ours,
    /// One that is in it already, by somebody's wish.
    Served,
}

/// Names the machine and shows the files.
pub fn give(root: &Tree, own: &Tree, identity: &Identity, resolver: Resolver) -> Result<(), Failure> {
    name_kernel(identity)?;
    let failed = |e: LaunchError| Failure::new(ErrorKind::Internal, e.to_string());
    if identity.network.is_some() {
        let mut texts = texts(identity);
        texts.retain(|(name, _)| *name != "resolv.conf" || resolver == Resolver::Ours);
        names::insist(root, own, &texts).map_err(failed)?;
    } else {
        names::give(root, own, &identity.hostname).map_err(failed)?;
    }
    names::insist(root, own, &[machine_id(identity)]).map_err(failed)
}

/// Names it anew. Files of the image's own stay what they are, as they did when the machine was set up.
pub fn change(own: &Tree, identity: &Identity) -> Result<(), Failure> {
    name_kernel(identity)?;
    for (name, text) in texts(identity).into_iter().chain([machine_id(identity)]) {
        rewrite(own, name, &text).map_err(|e| Failure::internal(&format!("write /etc/{name}"), &e))?;
    }
    Ok(())
}

/// The id as a program reads it.
pub fn machine_id_of(own: &Tree) -> io::Result<String> {
    let path = Path::new(DIRECTORY).join(MACHINE_ID);
    let mut text = String::new();
    File::from(own.open_with(&path, OFlags::RDONLY)?).take(READ_MAX).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// The name as the kernel has it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn name_kernel(identity: &Identity) -> Result<(), Failure> {
    rustix::system::sethostname(identity.hostname.as_bytes())
        .map_err(|e| Failure::internal("set the host name", &e.into()))
}

fn texts(identity: &Identity) -> Vec<Text> {
    match &identity.network {
        Some(GuestNetwork { address, gateway, search, name, .. }) => {
            let wire = Wire { address: *address, resolver: *gateway, search, name: name.as_deref() };
            names::wired(&identity.hostname, wire)
        }
        None => names::alone(&identity.hostname),
    }
}

fn machine_id(identity: &Identity) -> Text {
    (MACHINE_ID, format!("{}\n", identity.machine_id))
}

fn rewrite(own: &Tree, name: &str, text: &str) -> io::Result<()> {
    let directory = own.open(Path::new(DIRECTORY))?;
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file).write_all(text.as_bytes()),
        // The image's own was left alone.
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused() {
        let good = Identity { hostname: "sb-1".into(), machine_id: "0a".repeat(16), network: None };
        assert!(check(&good).is_ok());
        for hostname in ["", "a b", "a\nb", &"x".repeat(65)] {
            assert!(check(&Identity { hostname: hostname.into(), ..good.clone() }).is_err(), "{hostname:?}");
        }
        for machine_id in [String::new(), "0A".repeat(16), "0a".repeat(17)] {
            assert!(check(&Identity { machine_id: machine_id.clone(), ..good.clone() }).is_err(), "{machine_id:?}");
        }
    }
}
