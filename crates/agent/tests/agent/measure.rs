//! What the agent costs. Bounds are loose enough for a debug build on a busy machine; `--nocapture` shows the numbers.

use std::time::Instant;

use moat_engine::Guest;
use moat_model::Exit;
use moat_model::spec::ExecSpec;

use crate::harness::{Sandbox, exec_sh, listen, process};

#[tokio::test]
async fn memory_and_round_trip() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let idle = sandbox.rss();
    let spec = ExecSpec { process: process("/bin/true", &[]), ..exec_sh("") };
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        assert_eq!(listen(guest.exec(&spec).await.unwrap()).await.exit, Some(Exit::code(0)));
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_moat-agent")).unwrap().len();
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.pid)).unwrap();
    let of = |name| status.lines().find(|l: &&str| l.starts_with(name)).unwrap_or_default().to_owned();
    println!(
        "agent: binary {} KiB, rss idle {} KiB, after 200 execs {} KiB ({}, {}), exec p50 {:?} p95 {:?}",
        size >> 10,
        idle >> 10,
        sandbox.rss() >> 10,
        of("RssAnon"),
        of("RssFile"),
        times.get(100).unwrap(),
        times.get(190).unwrap(),
    );
    assert!(sandbox.rss() < 16 << 20);
    assert_eq!(of("Threads").split_ascii_whitespace().last(), Some("1"), "it forks, so it must never start a thread");
}
