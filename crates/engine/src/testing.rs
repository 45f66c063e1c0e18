//! Values for tests.

use std::collections::BTreeMap;

use moat_model::lifecycle::{Deadlines, State};
use moat_model::spec::{Network, Resources, RootSpec, Security, StopSpec};
use moat_model::{Isolation, Namespace, ProcessSpec, SandboxId, SandboxSpec, Timestamp};

use crate::driver::Place;
use crate::record::{RECORD_VERSION, SandboxRecord};

/// A sandbox id that is always the same for `n`.
pub fn id(n: u8) -> SandboxId {
    SandboxId::from_parts(Timestamp::from_millis(1), [n; 10])
}

/// A spec with this main process.
pub fn spec(command: &str, args: &[&str]) -> SandboxSpec {
    let process = ProcessSpec {
        command: command.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        cwd: None,
        user: None,
    };
    SandboxSpec {
        namespace: Namespace::default_namespace(),
        labels: BTreeMap::new(),
        isolation: Isolation::Container,
        root: RootSpec::Scratch,
        artifact: None,
        log_dir: None,
        main: Some(process),
        stop: StopSpec::default(),
        resources: Resources::default(),
        security: Security::default(),
        network: Network::Isolated,
        forwards: vec![],
        timeout: None,
    }
}

/// A record of a sandbox that was just accepted.
pub fn record(n: u8) -> SandboxRecord {
    let at = Timestamp::from_millis(5);
    let state = State::accepted(id(n), spec("app", &[]), "fake", Isolation::Container, Deadlines::default(), at);
    let place = Place {
        id: id(n),
        run_dir: format!("/run/moat/sandboxes/{}", id(n)).into(),
        data_dir: format!("/var/lib/moat/alloc/{}", id(n)).into(),
        uid_base: 0,
    };
    SandboxRecord { version: RECORD_VERSION, state, place, driver_record: None }
}
