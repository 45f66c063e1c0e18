//! Machines that stand ready for workloads.
//!
//! A member of their pool is what a workload gets that asks for nothing of its own: the node's limits, root and network, and no
//! program. A start that fits takes one instead of booting a machine, and the program is carried in. Which sandbox that is, is
//! written down before it is claimed, so whatever becomes of the daemon, a member is one workload's or nobody's.

use std::sync::Arc;

use moat_engine::pool::Pool;
use moat_model::spec::{ClaimSpec, OnTimeout, Origin, Owner, ProcessDefaults, Program, Resources, StopSpec};
use moat_model::{Namespace, SandboxId, SandboxSpec};

/// Name of their pool. No template has such a name.
pub const KEY: &str = "$NEX";

/// The machines that stand ready, if any do.
#[derive(Debug, Clone)]
pub struct Ready {
    /// All pools of the node.
    pub pool: Pool,
    /// What a member of theirs is; absent: none is kept.
    pub member: Option<Arc<SandboxSpec>>,
}

impl Ready {
    /// Takes one that can be what is wanted, and says what makes it that.
    pub(super) fn take(&self, wanted: &SandboxSpec) -> Option<(SandboxId, ClaimSpec)> {
        let claim = claim(wanted, self.member.as_deref()?)?;
        Some((self.pool.take(KEY, VERSION)?, claim))
    }
}

/// Version of their shape: what a member is, is compared as a whole.
pub const VERSION: u64 = 0;

/// What turns a member into a sandbox that runs this, if it can be one: nothing of it would be otherwise.
fn claim(wanted: &SandboxSpec, member: &SandboxSpec) -> Option<ClaimSpec> {
    let made = |spec: &SandboxSpec| SandboxSpec {
        namespace: Namespace::default_namespace(),
        labels: std::collections::BTreeMap::new(),
        main: None,
        artifact: None,
        stop: StopSpec::default(),
        timeout: None,
        idle_timeout: None,
        on_timeout: OnTimeout::default(),
        process: ProcessDefaults::default(),
        origin: Origin::default(),
        ..spec.clone()
    };
    let main = wanted.main.clone()?;
    if made(wanted) != made(member) {
        return None;
    }
    Some(ClaimSpec {
        namespace: wanted.namespace.clone(),
        owner: Owner::Workload,
        program: Some(Program { main, artifact: wanted.artifact.clone(), stop: wanted.stop }),
        labels: wanted.labels.clone(),
        resources: Resources::default(),
        network: None,
        ingress: wanted.ingress,
        timeout: wanted.timeout,
        idle_timeout: wanted.idle_timeout,
        on_timeout: wanted.on_timeout,
        process: wanted.process.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use moat_model::network::{NetworkMode, NetworkSpec};
    use moat_model::spec::{Artifact, Forward, RootSpec, Security};
    use moat_model::{Isolation, ProcessSpec};

    use super::*;

    fn member() -> SandboxSpec {
        let resources = Resources { memory_bytes: Some(128 << 20), ..Resources::default() };
        let spec = SandboxSpec::new(Namespace::default_namespace(), Isolation::Microvm, RootSpec::Scratch);
        SandboxSpec { resources, ..spec }
    }

    fn wanted() -> SandboxSpec {
        let process = |command: &str| ProcessSpec {
            command: command.to_owned(),
            args: vec!["7".to_owned()],
            env: [("WHO".to_owned(), "me".to_owned())].into(),
            cwd: None,
            user: Some("1000".to_owned()),
        };
        SandboxSpec {
            namespace: Namespace::parse("team").unwrap(),
            labels: [("workload".to_owned(), "echo".to_owned())].into(),
            main: Some(process("echo")),
            artifact: Some(Artifact { path: "/x".into(), name: "echo".to_owned(), sha256: "0".repeat(64) }),
            stop: StopSpec { grace: Duration::from_secs(77), ..StopSpec::default() },
            timeout: Some(Duration::from_secs(5)),
            ..member()
        }
    }

    #[test]
    fn a_claim_carries_everything_that_is_the_workloads_own() {
        let wanted = wanted();
        let claim = claim(&wanted, &member()).unwrap();
        assert_eq!((&claim.namespace, &claim.labels), (&wanted.namespace, &wanted.labels));
        assert_eq!((claim.owner, claim.timeout), (Owner::Workload, wanted.timeout));
        let program = claim.program.unwrap();
        assert_eq!((Some(program.main), program.artifact, program.stop), (wanted.main, wanted.artifact, wanted.stop));
        assert_eq!((claim.resources, claim.network), (Resources::default(), None), "as the member has them");
    }

    #[test]
    fn what_asks_for_something_of_its_own_is_made_for_it() {
        type Change = fn(&mut SandboxSpec);
        let changes: [Change; 7] = [
            |spec| spec.resources.memory_bytes = Some(256 << 20),
            |spec| spec.resources.cpu_weight = Some(5),
            |spec| spec.root = RootSpec::Host,
            |spec| spec.isolation = Isolation::Container,
            |spec| spec.network = NetworkSpec::new(NetworkMode::Internet),
            |spec| spec.security = Security { allow_new_privs: true, ..Security::default() },
            |spec| spec.forwards = vec![Forward { listen_port: 4222, target: "127.0.0.1:4222".to_owned() }],
        ];
        for change in changes {
            let mut other = wanted();
            change(&mut other);
            assert_eq!(claim(&other, &member()), None, "{other:?}");
        }
        assert_eq!(claim(&SandboxSpec { main: None, ..wanted() }, &member()), None);
    }
}
