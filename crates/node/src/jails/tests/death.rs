//! The daemon dies in the middle of things: nothing half made is listed as whole, and everything can be destroyed.

use moat_model::jail::{ApplyTemplate, CloneJail, TemplateName};

use super::*;
use crate::jails::events::Events;
use crate::jails::record::{JailRecord, Stage};

/// Lets work be polled so often, and no more.
async fn polled<T>(most: usize, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut count) = (std::pin::pin!(work), 0);
    std::future::poll_fn(move |cx| {
        count += 1;
        if count > most {
            return std::task::Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// A daemon of its own, with a runtime of its own, that begins something and dies at its `most`th step. True: it got through.
fn die<F>(dir: &Path, world: &FakeWorld, most: usize, begin: impl FnOnce(Arc<Shared>) -> F) -> bool
where
    F: Future<Output = bool>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let through = runtime.block_on(async {
        let bed = Bed::fake(dir, world).await;
        let through = polled(most, begin(Arc::clone(&bed.jails.shared))).await;
        world.crash();
        bed.jails.shared.closed.cancel();
        drop(bed);
        through
    });
    // What a thread is just writing is written: as the kernel does it for a process that is killed.
    runtime.shutdown_timeout(SOON);
    world.restart();
    through.unwrap_or(false)
}

/// What a daemon that comes after finds.
fn next<T>(dir: &Path, world: &FakeWorld, look: impl AsyncFnOnce(&Bed) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let found = runtime.block_on(async {
        let bed = Bed::fake(dir, world).await;
        let found = look(&bed).await;
        bed.end().await;
        found
    });
    runtime.shutdown_timeout(SOON);
    found
}

async fn all_go(bed: &Bed, dir: &Path) {
    for view in bed.jails.list(&own()) {
        // What starts with the node may just be starting.
        let gone = async || bed.destroy(view.spec.name.as_str()).await.ok();
        wait_until(SOON, "it can be destroyed", gone).await.unwrap();
    }
    assert!(bed.jails.list(&own()).is_empty() && on_disk(dir).is_empty(), "{:?}", on_disk(dir));
    let scratch = std::fs::read_dir(dir.join("jails/.scratch")).unwrap().count();
    assert_eq!(scratch, 0, "nothing is left");
}

#[test]
fn a_create_that_is_cut_short_at_any_step_leaves_a_jail_or_nothing() {
    let mut through = false;
    for most in 1.. {
        let (dir, world) = (tempfile::tempdir().unwrap(), world());
        next(dir.path(), &world, async |bed: &Bed| {
            bed.add_release(dir.path()).await;
        });
        let done = die(dir.path(), &world, most, |shared| async move {
            super::super::make::create(&shared, &own(), thin("a"), &Events::none()).await.is_ok()
        });
        next(dir.path(), &world, async |bed: &Bed| {
            let listed = bed.jails.list(&own());
            assert!(!done || listed.len() == 1, "what was told to be made is there");
            assert_eq!(listed.len(), on_disk(dir.path()).len(), "at step {most}");
            all_go(bed, dir.path()).await;
        });
        assert!(world.alive().is_empty(), "at step {most}");
        if done || most > 400 {
            through = done;
            break;
        }
    }
    assert!(through, "it gets through at last");
}

/// A jail `a` that is up, with a file of its own.
async fn source(bed: &Bed, dir: &Path) {
    bed.add_release(dir).await;
    let made = bed.create(thin("a")).await;
    let upper = Path::new(&made.path).join("files-1/upper");
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::write(upper.join("f"), "f").unwrap();
    let owner = Some(JailsConfig::default().uid_base);
    for path in [upper.join("f"), upper] {
        std::os::unix::fs::chown(path, owner, owner).unwrap();
    }
}

async fn source_goes_on(bed: &Bed, world: &FakeWorld, most: usize) {
    assert!(bed.is_up("a"), "the source lives on, at step {most}");
    let frozen = async || world.frozen().is_empty().then_some(());
    wait_until(SOON, "the source goes on", frozen).await.unwrap();
}

#[test]
fn a_clone_that_is_cut_short_at_any_step_leaves_a_jail_or_nothing_and_its_source() {
    if !rustix::process::geteuid().is_root() {
        return moat_testkit::not_run("B05", "files are given to other ids, which needs root");
    }
    for most in 1..400 {
        let (dir, world) = (tempfile::tempdir().unwrap(), world());
        next(dir.path(), &world, async |bed: &Bed| source(bed, dir.path()).await);
        let done = die(dir.path(), &world, most, |shared| async move {
            let asked = CloneJail { name: name("b"), address: None };
            super::super::branch::clone(&shared, &(own(), name("a")), asked, &Events::none()).await.is_ok()
        });
        next(dir.path(), &world, async |bed: &Bed| {
            source_goes_on(bed, &world, most).await;
            if let Ok(clone) = bed.jails.get(&own(), &name("b")) {
                assert!(Path::new(&clone.path).join("files-1/upper/f").exists(), "at step {most}");
            } else {
                assert!(!done);
            }
            all_go(bed, dir.path()).await;
        });
        if done {
            return;
        }
    }
    panic!("it never gets through");
}

#[test]
fn an_export_that_is_cut_short_at_any_step_leaves_nothing_and_its_source() {
    if !rustix::process::geteuid().is_root() {
        return moat_testkit::not_run("B06 killed", "files are given to other ids, which needs root");
    }
    for most in 1..400 {
        let (dir, world) = (tempfile::tempdir().unwrap(), world());
        next(dir.path(), &world, async |bed: &Bed| source(bed, dir.path()).await);
        let done = die(dir.path(), &world, most, |shared| async move {
            super::super::archive::export(&shared, &(own(), name("a")), &Events::none()).await.is_ok()
        });
        next(dir.path(), &world, async |bed: &Bed| {
            source_goes_on(bed, &world, most).await;
            let again = bed.jails.export(&own(), &name("a"), nobody()).await.unwrap();
            assert!(again.bytes > 0, "at step {most}");
            all_go(bed, dir.path()).await;
        });
        if done {
            return;
        }
    }
    panic!("it never gets through");
}

#[test]
fn a_template_that_is_cut_short_leaves_a_jail_that_says_where() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    next(dir.path(), &world, async |bed: &Bed| {
        bed.add_release(dir.path()).await;
        bed.create(thin("a")).await;
    });
    let template = dir.path().join("jails/.templates").join(own().as_str()).join("me/slow");
    std::fs::create_dir_all(&template).unwrap();
    std::fs::write(template.join("Bastillefile"), "TAGS one\nCMD sleep 1000\nTAGS two\n").unwrap();
    die(dir.path(), &world, usize::MAX, |shared| async move {
        let template = TemplateName::parse("me/slow").unwrap();
        let asked = ApplyTemplate { template, args: Vec::new(), arg_file: None, dry_run: false, rollback: false };
        let key = (own(), name("a"));
        let reached = async {
            let there = async || shared.record(&key).unwrap().template.filter_line(2).then_some(());
            wait_until(SOON, "the second line is reached", there).await.unwrap();
        };
        let unheard = Events::none();
        tokio::select! {
            _ = super::super::apply::apply(&shared, &key, asked, &unheard) => true,
            () = reached => false,
        }
    });
    next(dir.path(), &world, async |bed: &Bed| {
        let view = bed.get("a");
        assert_eq!(view.state, JailState::Up);
        assert_eq!(view.interrupted.as_deref(), Some("me/slow/Bastillefile:2"));
        assert_eq!(view.spec.tags.len(), 1, "what was done stays");
        all_go(bed, dir.path()).await;
    });
}

trait AtLine {
    fn filter_line(&self, line: usize) -> bool;
}

impl AtLine for Option<String> {
    fn filter_line(&self, line: usize) -> bool {
        self.as_ref().is_some_and(|place| place.ends_with(&format!(":{line}")))
    }
}

#[test]
fn halves_on_disk_go_and_renames_are_finished() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    next(dir.path(), &world, async |bed: &Bed| {
        bed.add_release(dir.path()).await;
        bed.create(NewJail { start: false, boot: false, ..thin("old") }).await;
        bed.create(NewJail { start: false, boot: false, depend: vec![name("old")], ..thin("web") }).await;
        bed.create(NewJail { start: false, boot: false, ..thin("half") }).await;
        bed.create(NewJail { start: false, boot: false, ..thin("leaving") }).await;
    });
    let jails = dir.path().join("jails").join(own().as_str());
    let change = |text: &str, change: &dyn Fn(&mut JailRecord)| {
        let home = crate::jails::place::Home(jails.join(text));
        let mut record = JailRecord::read(&home).unwrap().unwrap();
        change(&mut record);
        record.write(&home).unwrap();
    };
    change("half", &|record| record.stage = Stage::Making);
    change("leaving", &|record| record.stage = Stage::Leaving);
    change("old", &|record| record.renaming = Some(name("new")));
    std::fs::rename(jails.join("old"), jails.join("new")).unwrap();
    std::fs::create_dir_all(jails.join("unborn/files-1/upper")).unwrap();
    std::fs::create_dir_all(jails.join("new/files-2/upper")).unwrap();
    std::fs::create_dir_all(jails.join("new/snapshots/.new-x/upper")).unwrap();
    std::fs::create_dir_all(dir.path().join("jails/.scratch/x/y")).unwrap();
    next(dir.path(), &world, async |bed: &Bed| {
        let mut there = on_disk(dir.path());
        there.sort();
        assert_eq!(there, ["new", "web"]);
        assert_eq!(bed.get("web").spec.depend, [name("new")].into());
        assert!(!jails.join("new/files-2").exists() && jails.join("new/files-1").exists());
        assert!(!jails.join("new/snapshots/.new-x").exists());
        bed.destroy("web").await.unwrap();
        all_go(bed, dir.path()).await;
    });
}
