//! A jail that is cloned while it runs: how long it stands still, how long that takes, and the room of it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use moat_api::client::rest::{Lines, RestClient};
use moat_api::rest::exec::{Exec, ExecEvent};
use moat_model::jail::{Bootstrap, CloneJail, DestroyJail, JailEvent, JailName, JailView, NewJail, ReleaseName};
use moat_testkit::{SharingDisk, busybox, small_bin};

use super::node::Node;
use crate::rivals::timed;
use crate::samples::Sample;

/// The longest that a program in the source did not run, of each clone.
pub const STOOD: &str = "moat: the source stood still during a clone";
/// The same, while a file of 64 MiB is being changed all over.
const STOOD_PAGES: &str = "moat: the source stood still, pages of a file of 64 MiB being written";
/// What the disk and the processor alone do to such a program.
pub const STOOD_CP: &str = "cp -a of the same files: a program in the source did not run";
/// The whole of a clone.
pub const CLONED: &str = "moat: POST …/clone of a running jail, 1 GiB";
/// The rival.
pub const COPIED: &str = "cp -a --reflink=auto of the same files, then sync -f";
/// Blocks of the copy.
pub const ROOM: &str = "moat: room the clone takes on disk";
/// Blocks of the original.
pub const ROOM_SOURCE: &str = "the source's own room on disk";
/// As [`STOOD`], where files can share blocks.
pub const STOOD_SHARED: &str = "moat, on XFS: the source stood still during a clone";
/// As [`CLONED`].
pub const CLONED_SHARED: &str = "moat, on XFS: POST …/clone of a running jail, 1 GiB";
/// As [`COPIED`].
pub const COPIED_SHARED: &str = "on XFS: cp -a --reflink=auto of the same files, then sync -f";
/// What the disk has less.
const ROOM_SHARED: &str = "moat, on XFS: room the clone takes on disk";

const ROUNDS: usize = 12;
const ROUNDS_PAGES: usize = 4;
const ROUNDS_SHARED: usize = 6;
/// Room for the source, its clone and a copy, if none of it were shared.
const DISK: u64 = 8 << 30;
/// Half of the GiB in files of 64 KiB, half in files of 8 MiB; and one more file that is changed in pages.
const FILES: [(&str, u64, u64); 3] = [("small", 8192, 64 << 10), ("large", 64, 8 << 20), ("pages", 1, 64 << 20)];

/// Jails with the network they get by default, which is `internet` where the node has networks.
const CONFIG: &str = "[network]\nenabled = true\n[jails]\njails_max = 1000\n";

/// A node with a release of busybox, its files below a directory.
pub async fn node(place: &Path) -> anyhow::Result<Node> {
    let root = tempfile::Builder::new().prefix("moat-bench-root-").tempdir()?;
    let busybox = busybox().context("busybox is not installed")?;
    for name in ["bin", "etc", "root", "tmp", "srv", "usr/bin", "var/log"] {
        fs::create_dir_all(root.path().join(name))?;
    }
    fs::copy(&busybox, root.path().join("bin/busybox"))?;
    fs::copy(small_bin("probe")?, root.path().join("bin/probe"))?;
    for applet in ["sh", "cat", "echo", "sleep", "id", "ls", "mkdir"] {
        std::os::unix::fs::symlink("busybox", root.path().join("bin").join(applet))?;
    }
    fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.path().join("etc/group"), "root:x:0:\n")?;
    let releases = format!("[jails.releases]\nbench = \"dir:{}\"\n", root.path().display());
    let node = Node::start_at(place, &format!("{CONFIG}{releases}")).await?;
    let release = Bootstrap { name: ReleaseName::parse("bench")?, source: None, update: false };
    done(node.rest.make_release(&release).await?).await.context("make the release")?;
    Ok(node)
}

/// Follows something to its end, which must be a good one.
pub async fn done(mut lines: Lines<JailEvent>) -> anyhow::Result<()> {
    while let Some(event) = lines.next().await {
        match event? {
            JailEvent::Done { .. } => return Ok(()),
            JailEvent::Failed { error } => bail!("{error}"),
            _ => {}
        }
    }
    bail!("the node hung up")
}

/// Makes a thin jail of the release.
pub async fn create(rest: &RestClient, name: &str, start: bool) -> anyhow::Result<()> {
    let new = NewJail { start, ..NewJail::new(JailName::parse(name)?, Some(ReleaseName::parse("bench")?)) };
    done(rest.create_jail(&new).await?).await.with_context(|| format!("create {name}"))
}

/// Clones of a running jail whose files change meanwhile, in turn with copies of the same files.
pub async fn clone() -> anyhow::Result<Vec<Sample>> {
    let mut samples = on_the_hosts_disk().await?;
    match SharingDisk::make(DISK)? {
        Some(disk) => samples.extend(where_blocks_are_shared(&disk).await?),
        None => eprintln!("moat-bench: mkfs.xfs is not installed: nothing is measured where files share blocks"),
    }
    Ok(samples)
}

/// A jail with its files, and what watches it.
async fn source(node: &Node) -> anyhow::Result<(JailView, String, Beat)> {
    create(&node.rest, "source", true).await?;
    let source = node.rest.jail("source").await?;
    let sandbox = source.sandbox.clone().context("the source is not up")?.to_string();
    for (name, count, bytes) in FILES {
        let args = ["fill", &format!("/srv/{name}"), &count.to_string(), &bytes.to_string()].map(str::to_owned);
        let exec = Exec { command: "/bin/probe".to_owned(), args: args.into(), ..Exec::default() };
        let filled = node.rest.run(&sandbox, &exec).await?;
        ensure!(filled.exit_code == 0, "fill: {}", filled.stderr);
    }
    let beat = Beat::start(&node.rest, &sandbox).await?;
    Ok((source, sandbox, beat))
}

async fn on_the_hosts_disk() -> anyhow::Result<Vec<Sample>> {
    let place = Path::new("/var/tmp");
    let node = node(place).await?;
    let (source, sandbox, beat) = source(&node).await?;
    let mut samples = Vec::new();
    let quiet = going(&node.rest, &sandbox, &["churn", "/srv/small"]).await?;
    for round in 0..=ROUNDS {
        let cloned = cloned(&node.rest, &source, &beat).await?;
        let copied = copied(Path::new(&source.path), place, &beat).await?;
        // The first round meets files that are not written out yet.
        if round > 0 {
            samples.push(Sample::time("JC", STOOD, cloned.stood));
            samples.push(Sample::time("JC", CLONED, cloned.taken));
            samples.push(Sample::new("JC", ROOM, "MiB", mib(cloned.room)));
            samples.push(Sample::new("JC", ROOM_SOURCE, "MiB", mib(room(Path::new(&source.path))?)));
            samples.push(Sample::time("JC", STOOD_CP, copied.stood));
            samples.push(Sample::time("JC", COPIED, copied.taken));
        }
    }
    drop(quiet);
    let pages = going(&node.rest, &sandbox, &["churn", "/srv/small", "/srv/pages/0/0"]).await?;
    for _ in 0..ROUNDS_PAGES {
        let cloned = cloned(&node.rest, &source, &beat).await?;
        samples.push(Sample::time("JC", STOOD_PAGES, cloned.stood));
    }
    drop((pages, beat));
    node.end().await?;
    Ok(samples)
}

/// The same where files can share blocks, a large one being written to all the time.
async fn where_blocks_are_shared(disk: &SharingDisk) -> anyhow::Result<Vec<Sample>> {
    let node = node(disk.path()).await?;
    let (source, sandbox, beat) = source(&node).await?;
    let mut samples = Vec::new();
    let pages = going(&node.rest, &sandbox, &["churn", "/srv/small", "/srv/pages/0/0"]).await?;
    for round in 0..=ROUNDS_SHARED {
        let before = disk.taken()?;
        let (taken, stood) = clone_of(&node.rest, &source, &beat).await?;
        let room = disk.taken()?.saturating_sub(before);
        node.rest.destroy_jail("copy", &DestroyJail::default()).await?;
        let copied = copied(Path::new(&source.path), disk.path(), &beat).await?;
        if round > 0 {
            samples.push(Sample::time("JC", STOOD_SHARED, stood));
            samples.push(Sample::time("JC", CLONED_SHARED, taken));
            samples.push(Sample::new("JC", ROOM_SHARED, "MiB", mib(room)));
            samples.push(Sample::time("JC", COPIED_SHARED, copied.taken));
        }
    }
    drop((pages, beat));
    node.end().await?;
    Ok(samples)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What became of one copy.
struct Copied {
    taken: Duration,
    stood: Duration,
    room: u64,
}

/// A clone called `copy`: how long it took, and how long the source stood still.
async fn clone_of(rest: &RestClient, source: &JailView, beat: &Beat) -> anyhow::Result<(Duration, Duration)> {
    let asked = CloneJail { name: JailName::parse("copy")?, address: None };
    let (from, begin) = (SystemTime::now(), Instant::now());
    done(rest.clone_jail(source.spec.name.as_str(), &asked).await?).await.context("clone")?;
    Ok((begin.elapsed(), beat.longest(from).await?))
}

async fn cloned(rest: &RestClient, source: &JailView, beat: &Beat) -> anyhow::Result<Copied> {
    let (taken, stood) = clone_of(rest, source, beat).await?;
    let room = room(Path::new(&rest.jail("copy").await?.path))?;
    rest.destroy_jail("copy", &DestroyJail::default()).await?;
    Ok(Copied { taken, stood, room })
}

/// The rival: it copies files that change, and does not care.
async fn copied(source: &Path, place: &Path, beat: &Beat) -> anyhow::Result<Copied> {
    let dir = tempfile::Builder::new().prefix("moat-bench-copy-").tempdir_in(place)?;
    let (from, begin) = (SystemTime::now(), Instant::now());
    timed(Command::new("cp").args(["-a", "--reflink=auto"]).arg(source).arg(dir.path()))?;
    timed(Command::new("sync").arg("-f").arg(dir.path()))?;
    let taken = begin.elapsed();
    Ok(Copied { taken, stood: beat.longest(from).await?, room: 0 })
}

/// Blocks of everything below a directory.
fn room(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        // What is written anew meanwhile may be gone between two looks.
        let Ok(meta) = entry?.path().symlink_metadata() else { continue };
        bytes += meta.blocks() * 512;
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += room(&entry.path())?;
        }
    }
    Ok(bytes)
}

/// A program in a jail, which ends when this is dropped.
async fn going(rest: &RestClient, sandbox: &str, args: &[&str]) -> anyhow::Result<Lines<ExecEvent>> {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let exec = Exec { command: "/bin/probe".to_owned(), args, ..Exec::default() };
    let mut lines = rest.run_streaming(sandbox, &exec).await?;
    while let Some(event) = lines.next().await {
        match event? {
            ExecEvent::Started { .. } | ExecEvent::Keepalive => {}
            ExecEvent::Stdout { text: Some(text), .. } if text.starts_with("ready") => return Ok(lines),
            other => bail!("a program in the jail said {other:?}"),
        }
    }
    bail!("a program in the jail ended")
}

/// A program in a jail that says when it did not run for a while.
struct Beat {
    late: Arc<Mutex<Vec<(u64, u64)>>>,
    reading: tokio::task::JoinHandle<()>,
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Beat {
    /// What it writes has come by then.
    const TOLD_WITHIN: Duration = Duration::from_millis(300);
    /// Less than this is told to nobody.
    const LATE_MS: &str = "2";

    async fn start(rest: &RestClient, sandbox: &str) -> anyhow::Result<Self> {
        let mut lines = going(rest, sandbox, &["beat", Self::LATE_MS]).await?;
        let late = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&late);
        let reading = tokio::spawn(async move {
            let mut rest = String::new();
            while let Some(Ok(event)) = lines.next().await {
                let ExecEvent::Stdout { text: Some(text), .. } = event else { continue };
                rest.push_str(&text);
                while let Some((line, after)) = rest.split_once('\n') {
                    let said = line.split_once(' ').and_then(|(at, gap)| Some((at.parse().ok()?, gap.parse().ok()?)));
                    into.lock().unwrap_or_else(PoisonError::into_inner).extend(said);
                    rest = after.to_owned();
                }
            }
        });
        Ok(Self { late, reading })
    }

    /// The longest that it did not run since then; 2 ms at least, of which it says nothing.
    async fn longest(&self, from: SystemTime) -> anyhow::Result<Duration> {
        tokio::time::sleep(Self::TOLD_WITHIN).await;
        ensure!(!self.reading.is_finished(), "the program that says when it does not run has ended");
        let from = u64::try_from(from.duration_since(UNIX_EPOCH)?.as_micros())?;
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let gaps = late.iter().filter(|(at, _)| *at >= from).map(|(_, gap)| *gap);
        Ok(Duration::from_micros(gaps.max().unwrap_or(2000)))
    }
}
