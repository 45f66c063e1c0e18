//! From a machine that knows nothing to one that is somebody.

use moat_agent::protocol::machine::GuestSetup;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::group::Group;
use super::root;
use super::{Being, Booted, Ready, moment, names, network};
use crate::agent::Failure;

/// Whether it can be told at all what it is told.
pub fn check(setup: &GuestSetup) -> Result<(), Failure> {
    names::check(&setup.identity)?;
    moment::check(&setup.moment)?;
    root::disks_of(&setup.root).map(drop)
}

/// In an order in which nothing is done before what it depends on: randomness and time come before everything that is made.
pub async fn set_up(booted: &Booted, setup: GuestSetup) -> Result<(Being, Ready), Failure> {
    moment::begin(&booted.random, &setup.moment)?;
    let network = setup.identity.network.as_ref();
    network::prepare(network)?;
    if let Some(network) = network {
        network::configure(network)?;
    }
    let group = Group::make(&booted.groups, setup.pids_max)?;
    allow_files(setup.agent.nofile)?;
    let root = root::enter(&setup).await?;
    let directory = group.directory()?;
    Ok((Being { root, group }, Ready { config: setup.agent, group: directory }))
}

/// Raises the hard limit of open files if programs are to have a higher one.
fn allow_files(wanted: u64) -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_none_or(|maximum| maximum >= wanted) {
        return Ok(());
    }
    let raised = Rlimit { current: limit.current, maximum: Some(wanted) };
    setrlimit(Resource::Nofile, raised).map_err(|e| Failure::invalid(format!("agent.nofile: {wanted}: {e}")))
}
