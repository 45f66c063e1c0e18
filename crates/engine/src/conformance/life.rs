//! Cases about being made, running and ending.

use moat_agent::protocol::{MainState, PROTOCOL_VERSION};
use moat_model::spec::Signal;
use moat_model::{ErrorKind, Exit, ProcessSpec};

use super::bed::{Bed, directories, within};
use super::{Fault, Verdict, ensure, ensure_kind};

pub async fn whole_life(bed: &Bed) -> Verdict {
    let sandbox = bed.open(bed.spec(Some(bed.script("echo alive")?))).await?;
    let hello = within(sandbox.guest.hello()).await?;
    ensure(hello.protocol == PROTOCOL_VERSION, || format!("agent speaks version {}", hello.protocol))?;
    ensure(hello.main == MainState::Idle, || format!("main is {:?} before it was started", hello.main))?;
    sandbox.start_main().await?;
    let exit = sandbox.wait().await?;
    ensure(exit == Exit::code(0), || format!("ended with {exit:?}"))?;
    let (stdout, _) = sandbox.read_all().await?;
    ensure(stdout == b"alive\n", || format!("wrote {:?}", String::from_utf8_lossy(&stdout)))?;
    let hello = within(sandbox.guest.hello()).await?;
    ensure(hello.main == MainState::Exited { exit }, || format!("main is {:?} after its end", hello.main))?;
    within(sandbox.guest.shutdown()).await?;
    within(async { Ok(sandbox.guest.lost().await) }).await?;
    within(bed.driver.kill(&sandbox.record)).await?;
    for resource in sandbox.resources.iter().rev() {
        within(bed.driver.release(resource)).await?;
    }
    let left: Vec<_> = directories(&sandbox.resources).into_iter().filter(|path| path.exists()).collect();
    ensure(left.is_empty(), || format!("left behind: {left:?}"))
}

pub async fn main_starts_once(bed: &Bed) -> Verdict {
    let process = bed.script("sleep 1000")?;
    let sandbox = bed.running("sleep 1000").await?;
    ensure_kind(within(sandbox.guest.start_main(&process)).await, ErrorKind::Conflict, "a second start")?;
    let hello = within(sandbox.guest.hello()).await?;
    ensure(matches!(hello.main, MainState::Running { .. }), || format!("main is {:?}", hello.main))
}

pub async fn missing_program(bed: &Bed) -> Verdict {
    let process =
        ProcessSpec { command: "/missing".to_owned(), args: vec![], env: Default::default(), cwd: None, user: None };
    let sandbox = bed.idle().await?;
    match within(sandbox.guest.start_main(&process)).await {
        Ok(pid) => Err(Fault::Failed(format!("it was started as {pid}"))),
        Err(error) => ensure(error.chain().contains("missing"), || format!("does not name it: {}", error.chain())),
    }
}

pub async fn arguments(bed: &Bed) -> Verdict {
    bed.needs_full_shell()?;
    let mut process = bed.script("printf '%s|' \"$0\" \"$@\" \"$GIVEN\" \"$HOST_ONLY\"; env | grep -c =")?;
    process.args.extend(["zero", "a b", "", "$(id)", "*"].map(str::to_owned));
    process.env = [("GIVEN".to_owned(), "x=y z".to_owned())].into();
    let sandbox = bed.open(bed.spec(Some(process))).await?;
    sandbox.start_main().await?;
    let (stdout, stderr) = sandbox.read_all().await?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    ensure(text.starts_with("zero|a b||$(id)|*|x=y z||"), || {
        format!("arrived as {text:?}, stderr {:?}", String::from_utf8_lossy(&stderr))
    })?;
    // The shell itself adds PWD, SHLVL and _; what the agent documents to add is few as well.
    let variables: u32 = text.rsplit('|').next().and_then(|n| n.trim().parse().ok()).unwrap_or(u32::MAX);
    ensure(variables < 12, || format!("{variables} variables in the environment"))
}

pub async fn two_at_once(bed: &Bed) -> Verdict {
    let one = bed.running("sleep 1111").await?;
    let two = bed.running("sleep 2222").await?;
    let seen = within(one.guest.processes()).await?;
    ensure(!seen.iter().any(|process| process.command.contains("2222")), || format!("one sees {seen:?}"))?;
    within(bed.driver.kill(&one.record)).await?;
    let hello = within(two.guest.hello()).await?;
    ensure(matches!(hello.main, MainState::Running { .. }), || "killing one ended the other".to_owned())
}

pub async fn refusals(bed: &Bed) -> Verdict {
    if bed.profile.refused.is_empty() {
        return Err(Fault::NotRun("the profile names no spec to refuse".to_owned()));
    }
    for (field, spec) in &bed.profile.refused {
        match bed.driver.validate(spec) {
            Ok(()) => return Err(Fault::Failed(format!("{field}: accepted"))),
            Err(error) => {
                let refusal = matches!(error.kind, ErrorKind::InvalidSpec | ErrorKind::Unsupported);
                ensure(refusal && error.to_string().contains(field.as_str()), || {
                    format!("{field}: refused as {:?}, {error}", error.kind)
                })?;
            }
        }
    }
    Ok(())
}

pub async fn abilities(bed: &Bed) -> Verdict {
    let description = bed.driver.describe();
    let driver = &bed.driver;
    for (name, has) in [
        ("pause", driver.freezer().is_some()),
        ("stow", driver.stower().is_some()),
        ("snapshot", driver.snapshotter().is_some()),
    ] {
        let says = description.abilities.contains(&name);
        ensure(says == has, || format!("describes {:?}, and {name} is {has}", description.abilities))?;
    }
    ensure(bed.driver.probe().iter().all(|need| need.met || need.fix.is_some()), || {
        "an unmet requirement names no fix".to_owned()
    })
}

pub async fn exit_codes(bed: &Bed) -> Verdict {
    for code in [0, 1, 7, 255] {
        let sandbox = bed.running(&format!("exit {code}")).await?;
        let exit = sandbox.wait().await?;
        ensure(exit == Exit::code(code), || format!("exit {code} was reported as {exit:?}"))?;
    }
    Ok(())
}

pub async fn death_by_signal(bed: &Bed) -> Verdict {
    for (name, number) in [("KILL", 9), ("TERM", 15)] {
        let sandbox = bed.running(&format!("kill -{name} $$")).await?;
        let exit = sandbox.wait().await?;
        ensure(exit == Exit::signal(number), || format!("SIG{name} was reported as {exit:?}"))?;
    }
    Ok(())
}

pub async fn wait_again(bed: &Bed) -> Verdict {
    let sandbox = bed.running("sleep 0.3; exit 5").await?;
    for _ in 0..3 {
        let wait = sandbox.guest.wait_main();
        if let Ok(early) = tokio::time::timeout(std::time::Duration::from_millis(20), wait).await {
            return Err(Fault::Failed(format!("answered {early:?} while it ran")));
        }
    }
    for _ in 0..2 {
        let exit = sandbox.wait().await?;
        ensure(exit == Exit::code(5), || format!("ended with {exit:?}"))?;
    }
    Ok(())
}

pub async fn signals(bed: &Bed) -> Verdict {
    let sandbox = bed.running("echo ready; sleep 1000").await?;
    first_output(&sandbox).await?;
    within(sandbox.guest.signal_main(Signal::TERM)).await?;
    let exit = sandbox.wait().await?;
    // A shell passes the signal of its child on in its own status.
    ensure(exit.signal == Some(15) || exit.code == 143, || format!("ended with {exit:?}"))
}

pub async fn stop_escalation(bed: &Bed) -> Verdict {
    let sandbox = bed.running("trap '' TERM; echo ready; sleep 1000; sleep 1000").await?;
    first_output(&sandbox).await?;
    within(sandbox.guest.signal_main(Signal::TERM)).await?;
    let wait = sandbox.guest.wait_main();
    if let Ok(early) = tokio::time::timeout(std::time::Duration::from_millis(500), wait).await {
        return Err(Fault::Failed(format!("ended with {early:?} though it ignores the signal")));
    }
    within(sandbox.guest.signal_main(Signal::KILL)).await?;
    let exit = sandbox.wait().await?;
    ensure(exit == Exit::signal(9), || format!("ended with {exit:?}"))
}

/// Waits until the main process has said something: only then is it known to have come so far.
pub async fn first_output(sandbox: &super::bed::Sandbox) -> Verdict {
    let mut reader = within(sandbox.guest.output(Default::default())).await?;
    match within(reader.next()).await? {
        Some(_) => Ok(()),
        None => Err(Fault::Failed("ended without having said anything".to_owned())),
    }
}
