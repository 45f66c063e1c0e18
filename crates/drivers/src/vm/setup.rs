//! What the agent in a machine is told: from what was asked and where it was put.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use moat_agent::launch::AgentConfig;
use moat_agent::protocol::machine::{ENTROPY_LEN, GuestNetwork, GuestRoot, GuestSetup, Identity, Moment};
use moat_engine::driver::Place;
use moat_engine::error::{Error, Result};
use moat_model::spec::RootSpec;
use moat_model::{ErrorKind, SandboxId, SandboxSpec};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};

use super::config::MachineDefaults;
use super::process::replace_file;
use crate::linux::capability;

/// Unacknowledged output kept for each stream of the main process: as in a container.
const OUTPUT_BUFFER_BYTES: usize = 512 << 10;

/// Digits of a machine-id.
const MACHINE_ID_LEN: usize = 32;
/// Where programs look for who resolves names.
const RESOLVERS: &str = "/etc/resolv.conf";

/// Everything a guest needs to become this sandbox.
pub fn guest_setup(place: &Place, spec: &SandboxSpec, defaults: &MachineDefaults) -> Result<GuestSetup> {
    let main = spec.main.as_ref().and_then(|main| main.user.as_ref());
    let user = main.or(spec.process.user.as_ref()).unwrap_or(&defaults.default_user);
    Ok(GuestSetup {
        identity: identity(place, spec),
        root: root(spec),
        moment: moment()?,
        secrets_bytes: spec.resources.secrets_bytes.unwrap_or(defaults.secrets_bytes),
        pids_max: spec.resources.pids_max.map(u64::from),
        agent: AgentConfig {
            default_user: user.clone(),
            task_dir: None,
            capabilities: Some(capabilities(spec)?),
            no_new_privs: !spec.security.allow_new_privs,
            seccomp: Vec::new(),
            nofile: spec.resources.nofile.unwrap_or(defaults.nofile),
            forward_ports: spec.forwards.iter().map(|forward| forward.listen_port).collect(),
            oom_score_adj: 0,
            output_buffer_bytes: OUTPUT_BUFFER_BYTES,
        },
    })
}

fn root(spec: &SandboxSpec) -> GuestRoot {
    match &spec.root {
        _ if spec.lasting.is_some() => {
            let own_resolver = spec.binds.iter().any(|bind| bind.target == Path::new(RESOLVERS));
            GuestRoot::Served { own_resolver }
        }
        RootSpec::Layers { layers } => GuestRoot::Overlay { layers: u32::try_from(layers.len()).unwrap_or(u32::MAX) },
        RootSpec::Scratch | RootSpec::Host => GuestRoot::Overlay { layers: 0 },
    }
}

/// Capabilities of processes, as bits. The kernel is the machine's own, so any may be added.
pub fn capabilities(spec: &SandboxSpec) -> Result<u64> {
    let all = capability::of_kernel();
    Ok(capability::resolve(&spec.security.cap_add, &spec.security.cap_drop, all, all)?)
}

/// Who it is at this place.
pub fn identity(place: &Place, spec: &SandboxSpec) -> Identity {
    Identity {
        hostname: spec.hostname.clone().unwrap_or_else(|| place.id.as_str().to_owned()),
        machine_id: machine_id(&place.id),
        network: place.network.as_ref().map(|network| GuestNetwork {
            mac: network.mac,
            address: network.address,
            gateway: network.gateway,
            gateway_mac: network.gateway_mac,
            search: network.search.clone(),
            name: spec.network.name.as_ref().map(|name| name.as_str().to_owned()),
        }),
    }
}

/// Another for each sandbox, and the same for one that lay on disk in between.
fn machine_id(id: &SandboxId) -> String {
    let digest = Sha256::new().chain_update(b"moat machine-id ").chain_update(id.as_str()).finalize();
    hex(digest.get(..16).unwrap_or_default())
}

/// The id of whoever comes back to the same files, kept beside them: nobody else's, also not that of a copy of them.
pub fn lasting_machine_id(dir: &Path) -> Result<String> {
    let path = dir.join("machine-id");
    let failed = |e: io::Error| Error::caused_by(ErrorKind::Internal, format!("keep {}", path.display()), e);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim_end().len() == MACHINE_ID_LEN => return Ok(text.trim_end().to_owned()),
        // One that was cut short is made anew.
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let text = hex(random()?.get(..MACHINE_ID_LEN / 2).unwrap_or_default());
    replace_file(&path, format!("{text}\n").as_bytes())?;
    Ok(text)
}

/// Now, and bytes nobody else has.
pub fn moment() -> Result<Moment> {
    Ok(Moment { unix_nanos: unix_nanos(), entropy: hex(&random()?) })
}

fn random() -> Result<[u8; ENTROPY_LEN]> {
    let mut entropy = [0; ENTROPY_LEN];
    let filled = getrandom(&mut entropy, GetRandomFlags::empty())
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "take randomness from the host", io::Error::from(e)))?;
    if filled != ENTROPY_LEN {
        return Err(Error::new(ErrorKind::Internal, "the host gave less randomness than asked"));
    }
    Ok(entropy)
}

/// Nanoseconds since 1970 by the host's clock.
pub fn unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Lower-case digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
