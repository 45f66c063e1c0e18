//! The daemon is killed (SIGKILL) while it works on jails that run: nothing half made is listed as whole, what it worked on goes
//! on, and everything can be destroyed. Moments are spread over what the work takes when nobody disturbs it.

use std::path::Path;
use std::time::{Duration, Instant};

use moat_testkit::{article, wait_until};

use super::series::{hashes, jails_on_disk};
use super::story::{LONG, Story};

/// Moments at which it dies, in each kind of work.
const MOMENTS: u32 = 4;
/// What the source has in it: long enough to copy that a death falls into it.
const FILES: &str = "mkdir /root/d; for i in $(seq 300); do head -c 200000 /dev/urandom >/root/d/$i; done";
const TEMPLATE: &str = "TAGS one\nCMD sleep 1\nCMD echo two >/root/two\nCMD sleep 1\nTAGS three\n";

/// A node is begun, and what it does is cut short, again and again.
pub async fn all(busybox: &Path) {
    let mut story = Story::begin("").await;
    article::release(&story.path("root"), busybox, busybox, busybox).unwrap();
    let template = story.path("me/slow");
    std::fs::create_dir_all(&template).unwrap();
    std::fs::write(template.join("Bastillefile"), TEMPLATE).unwrap();
    story.ok("bastille bootstrap 14.2-RELEASE --from ./root");
    story.ok("bastille bootstrap ./me/slow");
    story.ok("bastille create source 14.2-RELEASE 10.78.0.1");
    story.ok(&format!("bastille cmd source sh -c \"{FILES}\""));
    let upper = story.path("up/node/jails/default/source/files-1/upper/root/d");
    let before = hashes(&upper);
    assert_eq!(before.len(), 300);

    for (line, made) in [
        ("bastille create made 14.2-RELEASE 10.78.0.2", Some(0)),
        ("bastille clone source made 10.78.0.2", Some(300)),
        ("bastille export source", None),
        ("bastille template source me/slow", None),
    ] {
        let begun = Instant::now();
        story.ok(line);
        let takes = begun.elapsed();
        if made.is_some() {
            destroyed(&mut story).await;
        }
        for moment in 1..=MOMENTS {
            cut_short(&mut story, line, takes * moment / (MOMENTS + 1)).await;
            goes_on(&mut story).await;
            assert_eq!(hashes(&upper), before, "{line}, at {moment}: the source is as it was");
            whole_or_not_there(&mut story, made).await;
        }
    }
    // What a template left undone, another run does.
    story.ok("bastille template source me/slow");
    assert_eq!(story.ok("bastille -q cmd source cat /root/two"), "two\n");
    assert_eq!(story.ok("bastille -q tags source list"), "one\nthree\n");
    story.ok("bastille stop source");
    story.ok("bastille destroy -y source");
    assert_eq!(jails_on_disk(&story), Vec::<String>::new());
    story.ok("bastille destroy -y 14.2-RELEASE");
    story.end().await;
}

/// Kills the daemon so long after a line was typed, and starts another.
async fn cut_short(story: &mut Story, line: &str, after: Duration) {
    let mut going = story.start(line);
    std::thread::park_timeout(after);
    story.kill();
    going.ended().await;
    story.again().await;
}

/// The source is up, not frozen, and free for other things.
async fn goes_on(story: &mut Story) {
    let works = async || (story.run("bastille -q cmd source echo here").out == "here\n").then_some(());
    wait_until(LONG, "the source goes on", works).await.unwrap_or_else(|e| panic!("{e}: {}", story.log()));
    let listed = story.ok("bastille list -j");
    assert!(listed.contains("\"source\""), "{listed}");
}

/// What was being made is listed and whole, or there is nothing of it.
async fn whole_or_not_there(story: &mut Story, made: Option<usize>) {
    let listed = story.ok("bastille list jails");
    let mut names: Vec<_> = listed.lines().map(str::to_owned).collect();
    names.sort();
    let mut on_disk = jails_on_disk(story);
    on_disk.sort();
    assert_eq!(on_disk, names, "what is on disk is listed");
    assert!(names.iter().all(|name| name == "source" || made.is_some() && name == "made"), "{names:?}");
    if let (2, Some(files)) = (names.len(), made) {
        // It is whole: it starts, and has what its source had.
        let up = async || {
            story.run("bastille start made");
            (story.run("bastille -q cmd made echo here").out == "here\n").then_some(())
        };
        wait_until(LONG, "what was made starts", up).await.unwrap_or_else(|e| panic!("{e}: {}", story.log()));
        assert_eq!(story.run("bastille -q cmd made ls /root/d").out.lines().count(), files);
        destroyed(story).await;
    }
}

async fn destroyed(story: &mut Story) {
    story.run("bastille stop made");
    let gone = async || (story.run("bastille destroy -y made").code == Some(0)).then_some(());
    wait_until(LONG, "it is destroyed", gone).await.unwrap_or_else(|e| panic!("{e}: {}", story.log()));
    assert_eq!(jails_on_disk(story), ["source"]);
}
