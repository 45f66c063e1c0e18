//! Cases about sandboxes that lie on disk, and about machines that are kept and made into others.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moat_agent::protocol::MainState;
use moat_model::spec::MachineSnapshot;
use moat_model::{ErrorKind, Exit, SandboxSpec};

use super::bed::{Bed, Sandbox, finish, plain, within};
use super::life::first_output;
use super::{Fault, Verdict, ensure, ensure_kind};
use crate::driver::{Freezer, Recovered, Snapshotter, Stower};

/// A clock inside may differ by this from the host's. A script reads whole seconds, which costs one more.
const CLOCK_WITHIN: Duration = Duration::from_secs(2);

fn stower(bed: &Bed) -> Result<(&dyn Freezer, &dyn Stower), Fault> {
    let both = bed.driver.freezer().zip(bed.driver.stower());
    both.ok_or_else(|| Fault::NotSupported("the driver has no sandboxes lie on disk".to_owned()))
}

fn snapshotter(bed: &Bed) -> Result<(&dyn Freezer, &dyn Snapshotter), Fault> {
    let both = bed.driver.freezer().zip(bed.driver.snapshotter());
    both.ok_or_else(|| Fault::NotSupported("the driver keeps no whole machines".to_owned()))
}

/// A program that says `before`, waits until it is let go on, says `after` and ends with 6. Without a whole shell it waits
/// for a time instead, which is imagined there.
fn waiting(bed: &Bed) -> &'static str {
    if bed.profile.full_shell {
        "echo before; while [ ! -e /tmp/moat-go ]; do sleep 0.1; done; echo after; exit 6"
    } else {
        "echo before; sleep 10; echo after; exit 6"
    }
}

/// Runs a script inside to its end, and returns what it wrote.
async fn told(bed: &Bed, sandbox: &Sandbox, script: &str) -> Result<String, Fault> {
    let mut session = sandbox.exec(plain(bed.script(script)?)).await?;
    let ran = finish(&mut session).await?;
    ensure(ran.exit == Some(Exit::code(0)), || format!("{script}: {ran:?}"))?;
    Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
}

/// The main process goes on from where it stood, to its own end.
async fn goes_on(bed: &Bed, sandbox: &Sandbox) -> Verdict {
    if bed.profile.full_shell {
        let hello = within(sandbox.guest.hello()).await?;
        ensure(matches!(hello.main, MainState::Running { .. }), || format!("main is {:?}", hello.main))?;
        let mut session = sandbox.exec(plain(bed.script(": > /tmp/moat-go")?)).await?;
        let ran = finish(&mut session).await?;
        // What it lets go may end before it does, and everything inside ends with that.
        let ended = [Exit::code(0), Exit::signal(9)].map(Some);
        ensure(ended.contains(&ran.exit), || format!("letting it go: {ran:?}"))?;
    }
    let exit = sandbox.wait().await?;
    ensure(exit == Exit::code(6), || format!("ended with {exit:?}"))
}

/// What the main process wrote, from the beginning as the agent counts it.
async fn wrote(sandbox: &Sandbox) -> Result<String, Fault> {
    Ok(String::from_utf8_lossy(&sandbox.read_all().await?.0).into_owned())
}

fn host_clock() -> Result<Duration, Fault> {
    SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| Fault::Failed(format!("the host's clock: {error}")))
}

/// The clock inside is the host's.
async fn clock_is_right(bed: &Bed, sandbox: &Sandbox) -> Verdict {
    if !bed.profile.full_shell {
        return Ok(());
    }
    let before = host_clock()?;
    let inside = told(bed, sandbox, "date +%s").await?;
    let after = host_clock()?;
    let inside = Duration::from_secs(inside.parse().map_err(|_| Fault::Failed(format!("date printed {inside:?}")))?);
    ensure(inside + CLOCK_WITHIN >= before && inside <= after + CLOCK_WITHIN, || {
        format!("the clock inside says {inside:?}, the host's went from {before:?} to {after:?}")
    })
}

/// A sandbox that waits, written to disk.
async fn on_disk(bed: &Bed) -> Result<Sandbox, Fault> {
    let (freezer, stower) = stower(bed)?;
    let sandbox = bed.running(waiting(bed)).await?;
    first_output(&sandbox).await?;
    within(freezer.freeze(&sandbox.record)).await?;
    within(stower.stow(&sandbox.record)).await?;
    within(stower.stow(&sandbox.record)).await?;
    within(async { Ok(sandbox.guest.lost().await) }).await?;
    let usage = within(bed.driver.usage(&sandbox.record)).await?;
    ensure(usage.pids == 0, || format!("{} processes run on the host for one that lies on disk", usage.pids))?;
    Ok(sandbox)
}

async fn read_back(bed: &Bed, sandbox: Sandbox) -> Result<Sandbox, Fault> {
    let (_, stower) = stower(bed)?;
    let guest = within(stower.unstow(&sandbox.record)).await?;
    Ok(Sandbox { guest, ..sandbox })
}

pub async fn stow(bed: &Bed) -> Verdict {
    let mut sandbox = on_disk(bed).await?;
    // Longer than a clock may be wrong.
    tokio::time::sleep(CLOCK_WITHIN * 2).await;
    sandbox = read_back(bed, sandbox).await?;
    clock_is_right(bed, &sandbox).await?;
    goes_on(bed, &sandbox).await?;
    let all = wrote(&sandbox).await?;
    ensure(all == "before\nafter\n", || format!("wrote {all:?}"))
}

pub async fn stow_again(bed: &Bed) -> Verdict {
    let (freezer, stower) = stower(bed)?;
    let mut sandbox = read_back(bed, on_disk(bed).await?).await?;
    within(freezer.freeze(&sandbox.record)).await?;
    within(stower.stow(&sandbox.record)).await?;
    sandbox = read_back(bed, sandbox).await?;
    goes_on(bed, &sandbox).await
}

pub async fn found_on_disk(bed: &Bed) -> Verdict {
    let (freezer, _) = stower(bed)?;
    let sandbox = on_disk(bed).await?;
    let text = serde_json::to_string(&sandbox.record).map_err(|e| Fault::Failed(format!("record: {e}")))?;
    let record = serde_json::from_str(&text).map_err(|e| Fault::Failed(format!("record: {e}")))?;
    for _ in 0..2 {
        match within(bed.driver.recover(&record)).await? {
            Recovered::Stowed => {}
            other => return Err(Fault::Failed(format!("found {other:?}"))),
        }
        // A daemon that does not know how far its predecessor came thaws before it looks.
        within(freezer.thaw(&record)).await?;
    }
    let usage = within(bed.driver.usage(&record)).await?;
    ensure(usage.pids == 0, || "it was read back to be found".to_owned())?;
    let sandbox = read_back(bed, Sandbox { record, ..sandbox }).await?;
    goes_on(bed, &sandbox).await?;
    let all = wrote(&sandbox).await?;
    ensure(all == "before\nafter\n", || format!("wrote {all:?}"))
}

pub async fn kill_on_disk(bed: &Bed) -> Verdict {
    let sandbox = on_disk(bed).await?;
    for _ in 0..2 {
        within(bed.driver.kill(&sandbox.record)).await?;
    }
    // What is left is released by the plan alone, and the case fails if that leaves anything.
    Ok(())
}

pub async fn stow_given_up(bed: &Bed) -> Verdict {
    let (freezer, stower) = stower(bed)?;
    // Given up after different times, so that different things exist.
    for millis in [0, 5, 50, 500] {
        let sandbox = bed.running(waiting(bed)).await?;
        first_output(&sandbox).await?;
        within(freezer.freeze(&sandbox.record)).await?;
        let stow = stower.stow(&sandbox.record);
        let stowed = tokio::time::timeout(Duration::from_millis(millis), stow).await;
        within(freezer.thaw(&sandbox.record)).await?;
        let sandbox = match (within(bed.driver.recover(&sandbox.record)).await?, stowed) {
            // It came to its end, or had come so far that it could not be given up.
            (Recovered::Stowed, _) => read_back(bed, sandbox).await?,
            (Recovered::Alive(guest), Err(_)) => Sandbox { guest, ..sandbox },
            (found, stowed) => {
                return Err(Fault::Failed(format!("given up after {millis} ms ({stowed:?}): {found:?}")));
            }
        };
        goes_on(bed, &sandbox).await?;
        bed.clear().await.map_err(|left| Fault::Failed(format!("given up after {millis} ms: {left}")))?;
    }
    Ok(())
}

/// A machine that was kept. Its directory goes when nobody needs it any more.
struct Kept {
    parent: Sandbox,
    dir: PathBuf,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // What is left lies in a directory of the test's own.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Keeps a sandbox whose main process runs `script` and has said something; it goes on afterwards.
async fn keep(bed: &Bed, script: &str) -> Result<Kept, Fault> {
    let (freezer, snapshotter) = snapshotter(bed)?;
    let parent = bed.running(script).await?;
    first_output(&parent).await?;
    within(freezer.freeze(&parent.record)).await?;
    let kept = Kept { parent, dir: bed.fresh_path("machine")? };
    let captured = within(snapshotter.snapshot(&kept.parent.record, &kept.dir)).await?;
    ensure(captured.memory && captured.bytes > 0, || format!("kept {captured:?}"))?;
    ensure(kept.dir.join("manifest.json").is_file(), || "there is no manifest.json".to_owned())?;
    within(freezer.thaw(&kept.parent.record)).await?;
    Ok(kept)
}

fn made_from(bed: &Bed, kept: &Kept) -> SandboxSpec {
    let driver = bed.driver.describe().name.to_owned();
    SandboxSpec { restore: Some(MachineSnapshot { dir: kept.dir.clone(), driver }), ..kept.parent.spec.clone() }
}

/// A sandbox made from a machine that was kept, in which the main process runs already.
async fn child(bed: &Bed, kept: &Kept) -> Result<Sandbox, Fault> {
    let child = bed.open(made_from(bed, kept)).await?;
    let main = child.spec.main.as_ref().ok_or_else(|| Fault::Failed("the case has no main process".to_owned()))?;
    ensure_kind(within(child.guest.start_main(main)).await, ErrorKind::Conflict, "start what runs already")?;
    Ok(child)
}

/// Everything that must differ between two sandboxes, as far as the profile's shell can tell.
async fn identity(bed: &Bed, sandbox: &Sandbox) -> Result<Vec<String>, Fault> {
    let mut parts = vec![told(bed, sandbox, "cat /etc/machine-id").await?];
    if bed.profile.full_shell {
        parts.push(told(bed, sandbox, "cat /proc/sys/kernel/hostname").await?);
        parts.push(told(bed, sandbox, "head -c 32 /dev/urandom | od -An -tx1").await?);
        parts.push(told(bed, sandbox, "cat /proc/sys/kernel/random/uuid").await?);
    }
    ensure(parts.iter().all(|part| !part.is_empty()), || format!("an identity is empty: {parts:?}"))?;
    Ok(parts)
}

pub async fn fork(bed: &Bed) -> Verdict {
    let kept = keep(bed, waiting(bed)).await?;
    let mut identities = vec![identity(bed, &kept.parent).await?];
    let mut children = Vec::new();
    for _ in 0..2 {
        let child = child(bed, &kept).await?;
        clock_is_right(bed, &child).await?;
        identities.push(identity(bed, &child).await?);
        children.push(child);
    }
    for (n, one) in identities.iter().enumerate() {
        for other in identities.iter().skip(n + 1) {
            let same = one.iter().zip(other).find(|(one, other)| one == other);
            ensure(same.is_none(), || format!("two have the same: {same:?}"))?;
        }
    }
    for child in &children {
        goes_on(bed, child).await?;
        let all = wrote(child).await?;
        ensure(all.ends_with("after\n"), || format!("a child wrote {all:?}"))?;
    }
    goes_on(bed, &kept.parent).await?;
    let all = wrote(&kept.parent).await?;
    ensure(all == "before\nafter\n", || format!("the parent wrote {all:?}"))
}

/// One line for each turn of a loop that never rests: who it is there, and when.
const DIARY: &str =
    "echo ready; n=0; while :; do n=$((n+1)); echo \"$n $(cat /etc/machine-id) $(date +%s)\" >> /tmp/moat-diary; done";

/// The turn at which the diary of a child first names somebody else than its parent, and when that was.
fn turned(diary: &str, parent: &str) -> Result<(u64, Duration), Fault> {
    let mut words = diary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let turn = words.find(|words| !words.contains(&parent));
    let read = turn.as_deref().and_then(|words| match words {
        [turn, _, at] => Some((turn.parse().ok()?, Duration::from_secs(at.parse().ok()?))),
        _ => None,
    });
    read.ok_or_else(|| Fault::Failed(format!("the diary has no turn of its own, but {turn:?}")))
}

pub async fn nothing_runs_before(bed: &Bed) -> Verdict {
    snapshotter(bed)?;
    bed.needs_full_shell()?;
    let kept = keep(bed, DIARY).await?;
    let parent = told(bed, &kept.parent, "cat /etc/machine-id").await?;
    let mut turns = Vec::new();
    for _ in 0..2 {
        let begun = host_clock()?;
        let child = child(bed, &kept).await?;
        // It wrote a line of its own by now, or will: a loop that does not rest needs no more than time.
        let script =
            format!("while ! tail -n 1 /tmp/moat-diary | grep -qv {parent}; do sleep 0.1; done; cat /tmp/moat-diary");
        let (turn, at) = turned(&told(bed, &child, &script).await?, &parent)?;
        ensure(at + CLOCK_WITHIN >= begun, || {
            format!("its first own line is of {at:?}, and it was begun at {begun:?}")
        })?;
        turns.push(turn);
        within(bed.driver.kill(&child.record)).await?;
    }
    // Both began with the same memory. Where one has come further before it knew who it is, it ran before that.
    let apart = match turns.as_slice() {
        [one, other] => one.abs_diff(*other),
        _ => u64::MAX,
    };
    ensure(apart <= 1, || format!("they became somebody in turns {turns:?} of the same program"))
}

/// Nothing can be made from what was kept, and `file` is named as the reason.
async fn is_refused(bed: &Bed, kept: &Kept, file: &str) -> Verdict {
    match bed.open(made_from(bed, kept)).await {
        Ok(_) => Err(Fault::Failed(format!("{file} is damaged, and it was restored all the same"))),
        Err(Fault::Failed(why)) => ensure(why.contains(file), || format!("{file} is damaged, and refused was: {why}")),
        Err(other) => Err(other),
    }
}

/// The largest file in a directory: the memory, or the disk.
fn largest(dir: &Path) -> std::io::Result<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != "manifest.json" {
            files.push((entry.metadata()?.len(), entry.path()));
        }
    }
    files.into_iter().max().map(|(_, path)| path).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// Changes one byte in the middle of a file.
fn damage(path: &Path) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(middle))?;
    file.write_all(&byte.map(|byte| byte ^ 1))
}

pub async fn damaged(bed: &Bed) -> Verdict {
    let kept = keep(bed, waiting(bed)).await?;
    within(bed.driver.kill(&kept.parent.record)).await?;
    let io = |error: std::io::Error| Fault::Failed(format!("damage a machine that was kept: {error}"));
    let largest = largest(&kept.dir).map_err(io)?;
    damage(&largest).map_err(io)?;
    let name = largest.file_name().unwrap_or_default().to_string_lossy().into_owned();
    is_refused(bed, &kept, &name).await?;
    damage(&largest).map_err(io)?;

    let manifest = kept.dir.join("manifest.json");
    let whole = std::fs::read(&manifest).map_err(io)?;
    std::fs::write(&manifest, whole.get(..whole.len() / 2).unwrap_or_default()).map_err(io)?;
    is_refused(bed, &kept, "manifest").await?;
    std::fs::write(&manifest, &whole).map_err(io)?;
    let child = child(bed, &kept).await?;
    goes_on(bed, &child).await
}
