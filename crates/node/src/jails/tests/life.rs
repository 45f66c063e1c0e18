//! A jail from its making to its end.

use moat_model::jail::{
    ChangeJail, CloneJail, DestroyJail, ImportJail, JailEvent, JailKind, JailLimit, JailMount, MountKind, Redirect,
    RemoveMount, Setting, SnapshotTag, StopJail, Tag,
};
use moat_model::network::{NetworkMode, Protocol};

use super::*;

#[tokio::test]
async fn b01_a_jail_is_made_stopped_started_renamed_and_destroyed() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    let (listener, mut events) = listen();
    let asked = NewJail { address: Some("10.0.0.1/24".to_owned()), ..thin("nats-jail") };
    let made = bed.jails.create(&own(), asked, listener).await.unwrap();
    assert_eq!(made.state, JailState::Up);
    assert_eq!(made.spec.network.address, Some([10, 0, 0, 1].into()));
    assert!(matches!(events.recv().await, Some(JailEvent::Note { text }) if text.contains("mask")));
    let (first, number) = (made.sandbox.clone().unwrap(), made.number.unwrap());
    let spec = bed.engine.spec(&first).unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("nats-jail"));
    assert_eq!(spec.network.name.as_ref().unwrap().as_str(), "nats-jail");
    assert_eq!(spec.lasting.as_ref().unwrap().uid_base, JailsConfig::default().uid_base);
    let again = bed.jails.start(&own(), &name("nats-jail"), nobody()).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Conflict);
    let down = bed.jails.stop(&own(), &name("nats-jail"), StopJail::default(), nobody()).await.unwrap();
    assert_eq!(down.state, JailState::Down { cause: None });
    assert!(bed.engine.get(&first).is_none() && down.number.is_none());
    let renamed = bed.jails.rename(&own(), &name("nats-jail"), name("nats2")).await.unwrap();
    assert_eq!(renamed.spec.name, name("nats2"));
    assert_eq!(on_disk(dir.path()), ["nats2"]);
    let up = bed.jails.start(&own(), &name("nats2"), nobody()).await.unwrap();
    assert!(up.number.unwrap() > number && up.sandbox != Some(first));
    let refused = bed.jails.destroy(&own(), &name("nats2"), DestroyJail::default(), nobody()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    bed.destroy("nats2").await.unwrap();
    assert!(bed.jails.list(&own()).is_empty() && on_disk(dir.path()).is_empty() && world.alive().is_empty());
    let kept = std::fs::read_dir(dir.path().join("jails/.logs").join(own().as_str())).unwrap();
    let kept: Vec<String> = kept.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(kept.len() == 1 && kept[0].starts_with("nats2-20"), "{kept:?}");
}

#[tokio::test]
async fn b11_a_create_that_fails_leaves_nothing() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    let gone = NewJail::new(name("a"), Some(ReleaseName::parse("9.9-RELEASE").unwrap()));
    let refused = bed.jails.create(&own(), gone, nobody()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert!(refused.to_string().contains("14.2-RELEASE"), "{refused}");
    let inherit = NewJail { address: Some("inherit".to_owned()), ..thin("a") };
    assert_eq!(bed.jails.create(&own(), inherit, nobody()).await.unwrap_err().kind, ErrorKind::Unsupported);
    for change in [
        |c: &mut FakeConfig| c.create_error = Some("no".to_owned()),
        |c: &mut FakeConfig| (c.create_error, c.start_error) = (None, Some("no".to_owned())),
        |c: &mut FakeConfig| (c.start_error, c.main_error) = (None, Some("no".to_owned())),
    ] {
        world.configure(change);
        bed.jails.create(&own(), thin("a"), nobody()).await.unwrap_err();
        assert!(bed.jails.list(&own()).is_empty() && on_disk(dir.path()).is_empty());
        assert!(world.alive().is_empty() && bed.engine.list().is_empty());
    }
    world.configure(|c| c.main_error = None);
    bed.create(thin("a")).await;
    let twice = bed.jails.create(&own(), thin("A"), nobody()).await.unwrap_err();
    assert_eq!(twice.kind, ErrorKind::Conflict, "they would have the same host name");
}

#[tokio::test]
async fn b10_what_is_depended_on_starts_first_and_stops_last() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    bed.create(NewJail { start: false, ..thin("db") }).await;
    bed.create(NewJail { start: false, depend: vec![name("db")], ..thin("web") }).await;
    bed.create(NewJail { start: false, priority: Some(1), ..thin("log") }).await;
    let order: Vec<JailName> = bed.jails.list(&own()).into_iter().map(|view| view.spec.name).collect();
    assert_eq!(order, ["log", "db", "web"].map(name));
    bed.jails.start(&own(), &name("web"), nobody()).await.unwrap();
    assert!(bed.is_up("db") && bed.is_up("web") && !bed.is_up("log"));
    let circle = ChangeJail { depend: Some(vec![name("web")]), ..ChangeJail::default() };
    let refused = bed.jails.change(&own(), &name("db"), circle).await.unwrap_err();
    assert!(refused.to_string().contains("db -> web -> db"), "{refused}");
    let again = bed.jails.restart(&own(), &name("db"), nobody()).await.unwrap();
    assert!(again.state == JailState::Up && bed.is_up("web"), "what depended on it is up again");
    let needed = bed.destroy("db").await.unwrap_err();
    assert!(needed.to_string().contains("jail web depends on it"), "{needed}");
    bed.jails.stop(&own(), &name("db"), StopJail::default(), nobody()).await.unwrap();
    assert!(!bed.is_up("db") && !bed.is_up("web"));
    bed.jails.rename(&own(), &name("db"), name("pg")).await.unwrap();
    assert_eq!(bed.get("web").spec.depend, [name("pg")].into());
}

#[tokio::test]
async fn an_address_is_of_one_jail_that_is_up() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    let at = |text: &str| NewJail { address: Some("10.0.0.9".to_owned()), ..thin(text) };
    bed.create(at("a")).await;
    let refused = bed.jails.create(&own(), at("b"), nobody()).await.unwrap_err();
    assert!(refused.to_string().contains("jail a"), "{refused}");
    let (listener, mut events) = listen();
    bed.jails.create(&own(), NewJail { start: false, ..at("b") }, listener).await.unwrap();
    assert!(matches!(events.recv().await, Some(JailEvent::Note { text }) if text.contains("jail a")));
    let given = bed.create(thin("c")).await.spec.network.address.unwrap();
    bed.jails.restart(&own(), &name("c"), nobody()).await.unwrap();
    assert_eq!(bed.get("c").spec.network.address, Some(given), "what the node gave stays");
}

#[tokio::test]
async fn b12_one_with_mounts_of_the_host_is_not_destroyed() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::os::unix::fs::symlink("/etc", shared.join("out")).unwrap();
    let config = JailsConfig { host_paths: vec![shared.clone()], ..JailsConfig::default() };
    let bed = Bed::fake_with(dir.path(), &world, config).await.with_release(dir.path()).await;
    bed.create(thin("a")).await;
    let mount = |path: &Path| {
        Setting::Mount(JailMount { kind: MountKind::Host(path.to_owned()), target: "/mnt/x".into(), read_only: false })
    };
    let out = shared.join("out");
    for outside in [Path::new("/etc"), out.as_path()] {
        let refused = bed.jails.set(&own(), &name("a"), mount(outside)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Denied, "{}", outside.display());
        assert!(refused.to_string().contains("jails.host_paths"), "{refused}");
    }
    bed.jails.set(&own(), &name("a"), mount(&shared)).await.unwrap();
    let refused = bed.destroy("a").await.unwrap_err();
    assert!(refused.to_string().contains("moat jail umount a /mnt/x"), "{refused}");
    bed.jails.set(&own(), &name("a"), Setting::NoMount(RemoveMount { target: "/mnt/x".into() })).await.unwrap();
    bed.destroy("a").await.unwrap();
}

fn limit(resource: &str, value: &str) -> Setting {
    Setting::Limit(JailLimit { resource: resource.to_owned(), value: value.to_owned() })
}

#[tokio::test]
async fn b08_limits_and_b07_redirects_last_and_clash_by_name() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    bed.create(thin("a")).await;
    bed.create(thin("b")).await;
    bed.jails.set(&own(), &name("a"), limit("memoryuse", "1G")).await.unwrap();
    bed.jails.set(&own(), &name("a"), limit("memoryuse", "2G")).await.unwrap();
    let refused = bed.jails.set(&own(), &name("a"), limit("cputime", "1")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    // One that is up has them at once.
    let resources = || bed.engine.spec(&bed.get("a").sandbox.unwrap()).unwrap().resources.clone();
    let own_pids = resources().pids_max;
    assert_eq!(resources().memory_bytes, Some(2 << 30));
    for (limit, value) in [("pcpu", "50"), ("maxproc", "20"), ("openfiles", "100")] {
        bed.jails.set(&own(), &name("a"), self::limit(limit, value)).await.unwrap();
    }
    assert_eq!((resources().cpu_quota_millis, resources().pids_max), (Some(500), Some(20)));
    assert_ne!(resources().nofile, Some(100), "what processes that run have is theirs");
    for limit in ["pcpu", "maxproc"] {
        let gone = moat_model::jail::RemoveLimit { resource: Some(limit.to_owned()) };
        bed.jails.set(&own(), &name("a"), Setting::NoLimit(gone)).await.unwrap();
    }
    assert!(resources().cpu_quota_millis >= Some(1000));
    assert_eq!(resources().pids_max, own_pids);
    let redirect = |host_port| Redirect { protocol: Protocol::Tcp, host_address: None, host_port, port: 80, count: 1 };
    bed.jails.set(&own(), &name("a"), Setting::Redirect(redirect(8081))).await.unwrap();
    let clash = bed.jails.set(&own(), &name("b"), Setting::Redirect(redirect(8081))).await.unwrap_err();
    assert!(clash.to_string().contains("jail a"), "{clash}");
    bed.end().await;
    let bed = Bed::fake(dir.path(), &world).await;
    assert!(bed.is_up("a"), "it lived on");
    bed.jails.restart(&own(), &name("a"), nobody()).await.unwrap();
    let view = bed.get("a");
    let spec = bed.engine.spec(&view.sandbox.unwrap()).unwrap();
    assert_eq!(spec.resources.memory_bytes, Some(2 << 30));
    assert_eq!(spec.network.publish.len(), 1);
    bed.jails.set(&own(), &name("a"), Setting::NoRedirect(None)).await.unwrap();
    assert!(bed.get("a").spec.redirects.is_empty());
}

#[tokio::test]
async fn one_thing_is_done_to_a_jail_at_a_time() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    bed.create(thin("a")).await;
    let claim = bed.jails.shared.claim(&(own(), name("a")), "export").unwrap();
    let refused = bed.jails.stop(&own(), &name("a"), StopJail::default(), nobody()).await.unwrap_err();
    assert!(refused.kind == ErrorKind::Conflict && refused.to_string().contains("busy (export)"), "{refused}");
    assert_eq!(bed.get("a").state, JailState::Busy { doing: "export".to_owned() });
    drop(claim);
    bed.jails.stop(&own(), &name("a"), StopJail::default(), nobody()).await.unwrap();
}

#[tokio::test]
async fn one_whose_sandbox_dies_is_down_with_the_cause_and_comes_back_with_the_node() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    let made = bed.create(thin("a")).await;
    bed.create(NewJail { boot: false, ..thin("b") }).await;
    world.lose_agent(&made.sandbox.unwrap());
    let down = async || matches!(bed.get("a").state, JailState::Down { cause: Some(_) }).then_some(());
    wait_until(SOON, "it is down", down).await.unwrap();
    bed.jails.start(&own(), &name("a"), nobody()).await.unwrap();
    let (a, b) = (bed.get("a").sandbox.unwrap(), bed.get("b").sandbox.unwrap());
    bed.end().await;
    // They die while there is no daemon.
    world.lose_agent(&a);
    world.lose_agent(&b);
    let bed = Bed::fake(dir.path(), &world).await;
    bed.until_up("a").await;
    assert!(matches!(bed.get("b").state, JailState::Down { cause: Some(_) }), "it is not to start with the node");
    // The host is booted: all that are to start with it do, also what was stopped before.
    bed.jails.stop(&own(), &name("a"), StopJail::default(), nobody()).await.unwrap();
    bed.end().await;
    let bed = Bed::fake(dir.path(), &world).await;
    assert!(!bed.is_up("a"), "a daemon that is merely restarted leaves alone what was stopped");
    bed.end().await;
    std::fs::write(dir.path().join("jails/.boot.json"), "another boot").unwrap();
    let bed = Bed::fake(dir.path(), &world).await;
    bed.until_up("a").await;
    assert!(!bed.is_up("b"));
}

#[tokio::test]
async fn those_a_node_ends_as_it_stops_are_up_again_with_the_next_daemon() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    bed.create(thin("db")).await;
    let web = bed.create(NewJail { depend: vec![name("db")], ..thin("web") }).await.sandbox.unwrap();
    bed.create(thin("down")).await;
    bed.jails.stop(&own(), &name("down"), StopJail::default(), nobody()).await.unwrap();
    bed.create(NewJail { boot: false, ..thin("by-hand") }).await;
    // Something is being done to one: it ends last, and the others do not wait for it.
    let busy = bed.jails.shared.claim(&(own(), name("web")), "copy").unwrap();
    let (stopping, look) = (bed.jails.clone(), async || (world.alive().len() == 1).then_some(()));
    let stopped = tokio::spawn(async move { stopping.stop_all().await });
    wait_until(SOON, "the others have ended", look).await.unwrap();
    assert_eq!(world.alive(), [web]);
    drop(busy);
    stopped.await.unwrap();
    assert_eq!((world.alive(), bed.engine.list()), (Vec::new(), Vec::new()));
    assert!(bed.jails.list(&own()).iter().all(|view| view.state == JailState::Down { cause: None }));
    bed.end().await;
    let bed = Bed::fake(dir.path(), &world).await;
    bed.until_up("web").await;
    assert!(bed.is_up("db") && !bed.is_up("down") && !bed.is_up("by-hand"));
    bed.end().await;
}

/// Files of jails belong to their own ids: only root can make them.
fn files(view: &JailView) -> std::path::PathBuf {
    let upper = Path::new(&view.path).join("files-1/upper");
    std::fs::create_dir_all(upper.join("etc")).unwrap();
    upper
}

#[tokio::test(flavor = "multi_thread")]
async fn b05_b06_clones_snapshots_and_archives() {
    if !rustix::process::geteuid().is_root() {
        return moat_testkit::not_run("B05, B06", "files are given to other ids, which needs root");
    }
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    let tag = Tag::parse("t").unwrap();
    let asked = NewJail { address: Some("10.0.0.2".to_owned()), tags: vec![tag], ..thin("pub") };
    let source = bed.create(asked).await;
    let limit = JailLimit { resource: "maxproc".to_owned(), value: "20".to_owned() };
    bed.jails.set(&own(), &name("pub"), Setting::Limit(limit)).await.unwrap();
    let upper = files(&source);
    std::fs::write(upper.join("hello"), "hello").unwrap();
    std::fs::write(upper.join("etc/machine-id"), "0").unwrap();
    let base = JailsConfig::default().uid_base;
    for (name, owner) in [("", base), ("etc", base), ("etc/machine-id", base), ("hello", base + 7)] {
        std::os::unix::fs::chown(upper.join(name), Some(owner), Some(owner)).unwrap();
    }
    let asked = CloneJail { name: name("sub"), address: Some("10.0.0.3".to_owned()) };
    let clone = bed.jails.clone_jail(&own(), &name("pub"), asked, nobody()).await.unwrap();
    assert!(bed.is_up("pub") && world.frozen().is_empty(), "the source goes on");
    assert!(matches!(clone.state, JailState::Down { cause: None }));
    assert!(clone.spec.limits.is_empty() && clone.spec.tags.is_empty());
    let copied = Path::new(&clone.path).join("files-1/upper");
    assert_eq!(std::fs::read(copied.join("hello")).unwrap(), b"hello");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(copied.join("hello")).unwrap());
    assert_eq!(owner, base + 65_536 + 7, "its files are its own");
    assert!(!copied.join("etc/machine-id").exists() && upper.join("etc/machine-id").exists());

    let snap = SnapshotTag::parse("one").unwrap();
    bed.jails.snapshot(&own(), &name("sub"), Some(snap.clone()), nobody()).await.unwrap();
    std::fs::write(copied.join("hello"), "changed").unwrap();
    bed.jails.rollback(&own(), &name("sub"), None, nobody()).await.unwrap();
    let back = Path::new(&clone.path).join("files-2/upper/hello");
    assert_eq!(std::fs::read(&back).unwrap(), b"hello");
    assert!(!copied.exists(), "what held before is gone");
    bed.jails.drop_snapshot(&own(), &name("sub"), &snap).await.unwrap();
    assert!(bed.jails.snapshots(&own(), &name("sub")).unwrap().is_empty());

    let exported = bed.jails.export(&own(), &name("pub"), nobody()).await.unwrap();
    assert!(world.frozen().is_empty() && exported.name.starts_with("pub_20"));
    let archive = dir.path().join("pub.tar");
    let mut file = exported.file;
    std::io::copy(&mut file, &mut std::fs::File::create(&archive).unwrap()).unwrap();
    let import = |text: &str, sha256: Option<&str>, force| {
        let asked = ImportJail { name: Some(name(text)), sha256: sha256.map(str::to_owned), force };
        let (jails, archive) = (&bed.jails, &archive);
        async move { jails.import(&own(), asked, archive.clone(), nobody()).await }
    };
    let whole = import("in", Some(&exported.sha256), false).await.unwrap();
    let arrived = Path::new(&whole.path).join("files-1/upper/hello");
    assert_eq!(std::fs::read(arrived).unwrap(), b"hello");
    assert_eq!(import("no", None, false).await.unwrap_err().kind, ErrorKind::InvalidSpec);
    // One byte of a file's content.
    let mut bytes = std::fs::read(&archive).unwrap();
    let at = bytes.windows(5).rposition(|w| w == b"hello").unwrap();
    bytes[at] = b'j';
    std::fs::write(&archive, bytes).unwrap();
    let refused = import("no", Some(&exported.sha256), false).await.unwrap_err();
    assert!(refused.to_string().starts_with("sha256: "), "{refused}");
    assert!(bed.jails.get(&own(), &name("no")).is_err());
    import("yes", None, true).await.unwrap();
}

#[tokio::test]
async fn an_empty_one_is_not_started_and_kinds_are_checked() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world).await.with_release(dir.path()).await;
    let empty = bed.create(NewJail { kind: JailKind::Empty, release: None, ..thin("e") }).await;
    assert_eq!(empty.state, JailState::Down { cause: None });
    let image = Some(bed.image());
    let oci = NewJail { kind: JailKind::Oci, release: None, image, ..thin("o") };
    let view = bed.create(NewJail { network: Some(NetworkMode::Internal), ..oci }).await;
    let program = view.spec.program.unwrap();
    assert_eq!((program.command.as_str(), program.user.as_deref()), ("/bin/serve", Some("1000:1000")));
    for bad in [
        NewJail { release: None, ..thin("x") },
        NewJail { image: Some("a".to_owned()), ..thin("x") },
        NewJail { isolation: moat_model::Isolation::Process, ..thin("x") },
        NewJail { depend: vec![name("nobody")], ..thin("x") },
    ] {
        assert_eq!(bed.jails.create(&own(), bad, nobody()).await.unwrap_err().kind, ErrorKind::InvalidSpec);
    }
}
