//! Cases about killing, releasing, finding again, measuring and pausing.

use std::time::Duration;

use moat_agent::protocol::MainState;
use moat_model::Exit;

use super::bed::{Bed, Sandbox, within};
use super::life::first_output;
use super::{Fault, Verdict, ensure};
use crate::driver::Recovered;

pub async fn kill_twice(bed: &Bed) -> Verdict {
    let sandbox = bed.running("sleep 1000").await?;
    for _ in 0..2 {
        within(bed.driver.kill(&sandbox.record)).await?;
    }
    within(async { Ok(sandbox.guest.lost().await) }).await?;
    for resource in sandbox.resources.iter().rev() {
        within(bed.driver.release(resource)).await?;
    }
    within(bed.driver.kill(&sandbox.record)).await?;
    Ok(())
}

pub async fn release_twice(bed: &Bed) -> Verdict {
    let place = bed.place();
    for resource in bed.plan(&place, &bed.spec(None)).iter().rev() {
        within(bed.driver.release(resource)).await?;
    }
    let sandbox = bed.idle().await?;
    within(bed.driver.kill(&sandbox.record)).await?;
    for _ in 0..2 {
        for resource in sandbox.resources.iter().rev() {
            within(bed.driver.release(resource)).await?;
        }
    }
    Ok(())
}

pub async fn create_given_up(bed: &Bed) -> Verdict {
    // Given up after different times, so that different things exist.
    for micros in [0, 50, 200, 500, 1000, 2000, 4000, 8000] {
        let place = bed.place();
        let spec = bed.spec(None);
        bed.plan(&place, &spec);
        let create = bed.driver.create(&place, &spec);
        if let Ok(Ok(record)) = tokio::time::timeout(Duration::from_micros(micros), create).await {
            within(bed.driver.kill(&record)).await?;
        }
        // What is left is released by the plan alone, and the case fails if that leaves anything.
        bed.clear().await.map_err(|left| Fault::Failed(format!("given up after {micros} µs: {left}")))?;
    }
    Ok(())
}

/// The sandbox as a daemon finds it that knows nothing but the text of its record.
async fn restarted(bed: &Bed, sandbox: Sandbox) -> Result<Sandbox, Fault> {
    let text = serde_json::to_string(&sandbox.record).map_err(|e| Fault::Failed(format!("record: {e}")))?;
    let Sandbox { spec, guest, resources, .. } = sandbox;
    drop(guest);
    let record = serde_json::from_str(&text).map_err(|e| Fault::Failed(format!("record: {e}")))?;
    match within(bed.driver.recover(&record)).await? {
        Recovered::Alive(guest) => Ok(Sandbox { spec, record, guest, resources }),
        Recovered::Stowed => Err(Fault::Failed("found on disk".to_owned())),
        Recovered::Gone { detail } => Err(Fault::Failed(format!("gone: {detail}"))),
    }
}

pub async fn alive(bed: &Bed) -> Verdict {
    let sandbox = bed.running("echo before; sleep 1; echo after; exit 6").await?;
    let again = restarted(bed, sandbox).await?;
    let hello = within(again.guest.hello()).await?;
    ensure(matches!(hello.main, MainState::Running { .. }), || format!("main is {:?}", hello.main))?;
    let (stdout, _) = again.read_all().await?;
    ensure(stdout == b"before\nafter\n", || format!("wrote {:?}", String::from_utf8_lossy(&stdout)))?;
    let exit = again.wait().await?;
    ensure(exit == Exit::code(6), || format!("ended with {exit:?}"))
}

pub async fn exited(bed: &Bed) -> Verdict {
    let sandbox = bed.running("echo last words; exit 9").await?;
    sandbox.wait().await?;
    let again = restarted(bed, sandbox).await?;
    let hello = within(again.guest.hello()).await?;
    ensure(hello.main == MainState::Exited { exit: Exit::code(9) }, || format!("main is {:?}", hello.main))?;
    let (stdout, _) = again.read_all().await?;
    ensure(stdout == b"last words\n", || format!("wrote {:?}", String::from_utf8_lossy(&stdout)))
}

pub async fn gone(bed: &Bed) -> Verdict {
    let sandbox = bed.running("sleep 1000").await?;
    within(bed.driver.kill(&sandbox.record)).await?;
    match within(bed.driver.recover(&sandbox.record)).await? {
        Recovered::Gone { .. } => Ok(()),
        Recovered::Stowed => Err(Fault::Failed("a killed sandbox was found on disk".to_owned())),
        Recovered::Alive(_) => Err(Fault::Failed("a killed sandbox was found alive".to_owned())),
    }
}

pub async fn usage(bed: &Bed) -> Verdict {
    let sandbox = bed.running("echo ready; sleep 1000").await?;
    first_output(&sandbox).await?;
    let usage = within(bed.driver.usage(&sandbox.record)).await?;
    ensure(usage.memory_bytes > 0 && usage.pids >= 2, || format!("while it runs: {usage:?}"))?;
    ensure(usage.oom_kills == 0, || format!("{} kills for memory", usage.oom_kills))?;
    within(bed.driver.kill(&sandbox.record)).await?;
    let after = within(bed.driver.usage(&sandbox.record)).await?;
    ensure(after.cpu_usec >= usage.cpu_usec, || format!("CPU time went from {usage:?} to {after:?}"))
}

pub async fn pause(bed: &Bed) -> Verdict {
    let Some(freezer) = bed.driver.freezer() else { return Err(no_freezer()) };
    let steps: String = (0..100).map(|n| format!("echo {n}; sleep 0.1; ")).collect();
    let sandbox = bed.running(&format!("{steps} exit 0")).await?;
    first_output(&sandbox).await?;
    for _ in 0..2 {
        within(freezer.freeze(&sandbox.record)).await?;
    }
    let before = within(bed.driver.usage(&sandbox.record)).await?.cpu_usec;
    // Frozen for longer than the program would need: if it moved, it would be over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = within(bed.driver.usage(&sandbox.record)).await?.cpu_usec;
    ensure(after.saturating_sub(before) < 50_000, || format!("used {} µs while paused", after - before))?;
    for _ in 0..2 {
        within(freezer.thaw(&sandbox.record)).await?;
    }
    let hello = within(sandbox.guest.hello()).await?;
    ensure(matches!(hello.main, MainState::Running { .. }), || format!("main is {:?} after it", hello.main))
}

pub async fn kill_paused(bed: &Bed) -> Verdict {
    let Some(freezer) = bed.driver.freezer() else { return Err(no_freezer()) };
    let sandbox = bed.running("sleep 1000").await?;
    within(freezer.freeze(&sandbox.record)).await?;
    within(bed.driver.kill(&sandbox.record)).await?;
    within(async { Ok(sandbox.guest.lost().await) }).await?;
    Ok(())
}

fn no_freezer() -> Fault {
    Fault::NotSupported("the driver offers no pause".to_owned())
}
