//! Cases in which the program means harm.

use moat_agent::protocol::MainState;
use moat_model::SandboxSpec;

use super::bed::{Bed, within};
use super::life::first_output;
use super::{Counted, Fault, Verdict, ensure};

pub async fn flood(bed: &Bed) -> Verdict {
    bed.needs_full_shell()?;
    let sandbox = bed.running("echo ready; while :; do head -c 1000000 /dev/zero; done").await?;
    // Nobody reads. The agent must still answer, and must not have taken more than its bounded buffers.
    for _ in 0..20 {
        let hello = within(sandbox.guest.hello()).await?;
        ensure(matches!(hello.main, MainState::Running { .. }), || format!("main is {:?}", hello.main))?;
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    let stats = within(sandbox.guest.stats()).await?;
    ensure(stats.agent_rss_bytes < 64 << 20, || format!("the agent holds {} bytes", stats.agent_rss_bytes))?;
    within(bed.driver.kill(&sandbox.record)).await?;
    Ok(())
}

pub async fn fork_bomb(bed: &Bed) -> Verdict {
    bed.needs_full_shell()?;
    let script = "echo ready; i=0; while [ $i -lt 300 ]; do sleep 5555 & i=$((i+1)); done; wait";
    let mut spec: SandboxSpec = bed.spec(Some(bed.script(script)?));
    spec.resources.pids_max = Some(40);
    if let Err(error) = bed.driver.validate(&spec) {
        return Err(Fault::NotSupported(error.chain()));
    }
    let sandbox = bed.open(spec).await?;
    sandbox.start_main().await?;
    first_output(&sandbox).await?;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    within(sandbox.guest.hello()).await?;
    let running = match bed.profile.counted {
        Counted::Processes => within(bed.driver.usage(&sandbox.record)).await?.pids,
        Counted::Monitor => {
            let inside = within(sandbox.guest.processes()).await?;
            inside.iter().filter(|process| process.command.contains("5555")).count() as u64
        }
    };
    ensure(running <= 40, || format!("{running} processes where 40 are allowed"))?;
    within(bed.driver.kill(&sandbox.record)).await?;
    let after = within(bed.driver.usage(&sandbox.record)).await?;
    ensure(after.pids == 0, || format!("{} processes after the kill", after.pids))
}

pub async fn memory(bed: &Bed) -> Verdict {
    bed.needs_full_shell()?;
    // A machine needs memory for a kernel too.
    let (memory, script) = match bed.profile.counted {
        Counted::Processes => (48 << 20, "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived ${#x}"),
        // A shell that reads byte by byte takes minutes for that under emulation.
        Counted::Monitor => (256 << 20, "head -c 600000000 /dev/zero | tail -c 600000000 > /dev/null"),
    };
    let mut spec: SandboxSpec = bed.spec(Some(bed.script(script)?));
    spec.resources.memory_bytes = Some(memory);
    if let Err(error) = bed.driver.validate(&spec) {
        return Err(Fault::NotSupported(error.chain()));
    }
    let sandbox = bed.open(spec).await?;
    sandbox.start_main().await?;
    // The kernel may choose the agent itself; then the wait fails, and only the count speaks.
    let exit = sandbox.wait().await;
    match bed.profile.counted {
        Counted::Processes => {
            let usage = within(bed.driver.usage(&sandbox.record)).await?;
            ensure(usage.oom_kills > 0, || {
                let exit = exit.as_ref().ok();
                format!("no kill for memory counted; ended with {exit:?}")
            })?;
        }
        // The machine's own kernel kills and counts; the machine, and the agent in it, live on.
        Counted::Monitor => drop(within(sandbox.guest.hello()).await?),
    }
    ensure(exit.as_ref().is_ok_and(|exit| !exit.success()), || "the agent died, not the program".to_owned())
}

pub async fn ignores_everything(bed: &Bed) -> Verdict {
    let sandbox = bed.running("trap '' HUP INT QUIT TERM USR1 USR2; echo ready; sleep 1000; sleep 1000").await?;
    first_output(&sandbox).await?;
    within(bed.driver.kill(&sandbox.record)).await?;
    within(async { Ok(sandbox.guest.lost().await) }).await?;
    Ok(())
}
