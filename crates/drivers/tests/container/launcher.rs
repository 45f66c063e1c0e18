//! The launcher's failures: each says which step, about what, and why.

use std::path::PathBuf;

use moat_agent::launch::{AgentConfig, BindConfig, JailConfig, LaunchConfig, Payload, ShownIds};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::linux::launch::{LaunchError, launch, listen};

use crate::harness::*;

/// What makes a good configuration a bad one.
type Spoil = fn(&mut LaunchConfig);

fn config(host: &Host) -> LaunchConfig {
    let mount_point = host.dir.path().join("root");
    std::fs::create_dir_all(&mount_point).unwrap();
    LaunchConfig {
        cgroup_procs: Vec::new(),
        jail: Some(JailConfig {
            hostname: "box".to_owned(),
            uid_base: 0x5100_0000,
            mount_point,
            writable_bytes: 1 << 20,
            layers: Vec::new(),
            host_paths: Vec::new(),
            binds: Vec::new(),
            secrets_bytes: 4096,
            host_pid: false,
            host_ipc: false,
            lasting: None,
            network: None,
        }),
        payload: Payload::Agent(AgentConfig {
            default_user: "nobody".to_owned(),
            task_dir: None,
            capabilities: Some(0),
            no_new_privs: true,
            seccomp: Vec::new(),
            nofile: 64,
            forward_ports: Vec::new(),
            oom_score_adj: 0,
            output_buffer_bytes: 4096,
        }),
    }
}

#[tokio::test]
async fn every_failed_step_is_named() {
    let Some(host) = Host::new("launcher failures") else { return };
    let binary = AgentBinary::embedded().unwrap();
    let cases: [(&str, &str, Spoil); 6] = [
        ("enter cgroup", "/nowhere: No such file", |c| c.cgroup_procs.push(PathBuf::from("/nowhere/cgroup.procs"))),
        ("writable layer", "/nowhere", |c| jail(c).mount_point = PathBuf::from("/nowhere")),
        ("user", "\"ghost\"", |c| agent(c).default_user = "ghost".to_owned()),
        ("user", "ids inside are 0 to 65535", |c| agent(c).default_user = "65536".to_owned()),
        ("bind", "/nowhere: No such file", |c| {
            let (source, target) = (PathBuf::from("/nowhere"), PathBuf::from("/x"));
            let ids = ShownIds::Foreign;
            jail(c).binds.push(BindConfig { source, target, read_only: true, exec: false, ids });
        }),
        ("set host name", "File name too long", |c| jail(c).hostname = "x".repeat(65)),
    ];
    for (stage, detail, spoil) in cases {
        let mut config = config(&host);
        spoil(&mut config);
        let listener = listen(&host.dir.path().join("agent.sock")).unwrap();
        let failed = launch(&binary, &config, vec![listener]).await.unwrap_err();
        let LaunchError::Failed { stage: said_stage, detail: said } = &failed else { panic!("{failed:?}") };
        assert_eq!(said_stage, stage, "{said}");
        assert!(said.contains(detail) || stage == "set host name", "{stage}: {said}");
    }
}

fn agent(config: &mut LaunchConfig) -> &mut AgentConfig {
    match &mut config.payload {
        Payload::Agent(agent) => agent,
        Payload::Program(_) => unreachable!("these tests launch agents"),
    }
}

fn jail(config: &mut LaunchConfig) -> &mut JailConfig {
    config.jail.as_mut().unwrap()
}
