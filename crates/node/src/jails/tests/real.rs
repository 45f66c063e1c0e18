//! Jails in real containers.

use moat_engine::guest::ExecOutput;
use moat_model::jail::{JailKind, StopJail};
use moat_model::spec::ExecSpec;
use moat_model::{Isolation, ProcessSpec};

use super::*;
use crate::config::NodeConfig;

fn registry(dir: &Path) -> Option<Registry> {
    let config = NodeConfig {
        run_dir: dir.join("run"),
        data_dir: dir.join("data"),
        drivers: vec!["container".to_owned()],
        ..NodeConfig::default()
    };
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    crate::daemon::drivers(&config).ok().filter(|registry| registry.offer(Isolation::Container).is_ok())
}

/// A root of busybox alone, as a directory.
fn root(dir: &Path) -> Option<std::path::PathBuf> {
    let busybox = moat_testkit::busybox()?;
    let root = dir.join("root");
    for name in ["bin", "etc", "root", "tmp", "usr/bin"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "echo", "sleep", "hostname", "id", "touch", "ls"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    Some(root)
}

pub(super) fn not_run(id: &str) {
    moat_testkit::not_run(id, "the container driver needs root and its kernel, and a static busybox");
}

/// Jails in containers, with a release of busybox. Without the node's own programs an agent idles in them.
pub(super) async fn bed(dir: &Path) -> Option<Bed> {
    let (registry, root) = (registry(dir)?, root(dir)?);
    let bed = Bed::open(dir, registry, crate::networks::tests::off(), JailsConfig::default(), None).await;
    bed.bootstrap(ReleaseSource::Directory(root), false).await;
    Some(bed)
}

impl Bed {
    async fn sh(&self, text: &str, script: &str) -> (i32, String) {
        let process = ProcessSpec {
            command: "sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: Default::default(),
            cwd: None,
            user: None,
        };
        let spec = ExecSpec { process, pty: None, stdin: false, timeout: None };
        let id = self.get(text).sandbox.unwrap();
        let mut session = self.engine.exec(&id, &spec).await.unwrap();
        let mut out = String::new();
        while let Some(said) = session.output.recv().await {
            match said {
                ExecOutput::Data(_, bytes) => out.push_str(&String::from_utf8_lossy(&bytes)),
                ExecOutput::Exited { exit, .. } => return (exit.code, out),
            }
        }
        panic!("it never ended: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b01_files_of_a_jail_in_a_container_last() {
    let dir = tempfile::Builder::new().prefix("moat-jails-").tempdir().unwrap();
    let Some(bed) = bed(dir.path()).await else { return not_run("B01") };
    let view = bed.create(thin("web")).await;
    assert_eq!(view.given.as_deref(), Some("container"));
    let (code, out) = bed.sh("web", "hostname; id -u; echo mine > /root/file; echo $HOME $USER; cat /root/file").await;
    assert_eq!((code, out.as_str()), (0, "web\n0\n/root root\nmine\n"));
    bed.jails.stop(&own(), &name("web"), StopJail::default(), nobody()).await.unwrap();
    bed.jails.start(&own(), &name("web"), nobody()).await.unwrap();
    assert_eq!(bed.sh("web", "cat /root/file").await, (0, "mine\n".to_owned()));

    // A clone of one that runs; then a thick one, whose files are all its own.
    let asked = moat_model::jail::CloneJail { name: name("sub"), address: None };
    bed.jails.clone_jail(&own(), &name("web"), asked, nobody()).await.unwrap();
    bed.jails.start(&own(), &name("sub"), nobody()).await.unwrap();
    assert_eq!(bed.sh("sub", "hostname; cat /root/file; echo other > /root/file").await, (0, "sub\nmine\n".to_owned()));
    assert_eq!(bed.sh("web", "cat /root/file").await, (0, "mine\n".to_owned()));
    bed.jails.stop(&own(), &name("sub"), StopJail { force: true }, nobody()).await.unwrap();
    let thick = bed.jails.convert(&own(), &name("sub"), nobody()).await.unwrap();
    assert_eq!(thick.spec.kind, JailKind::Thick);
    bed.jails.start(&own(), &name("sub"), nobody()).await.unwrap();
    assert_eq!(bed.sh("sub", "cat /root/file").await, (0, "other\n".to_owned()));

    // A release is made of one that is down, and of one's own.
    let made = ReleaseName::parse("made").unwrap();
    let asked = || Bootstrap { name: made.clone(), source: Some(ReleaseSource::Jail(name("web"))), update: false };
    let up = bed.jails.bootstrap(&own(), asked(), nobody()).await.unwrap_err();
    assert!(up.to_string().contains("jail web: is up"), "{up}");
    let others = bed.jails.bootstrap(&"red".parse().unwrap(), asked(), nobody()).await.unwrap_err();
    assert_eq!(others.kind, ErrorKind::NotFound, "{others}");

    let used = bed.jails.drop_release(&release()).await.unwrap_err();
    assert!(used.to_string().contains("jail web"), "{used}");
    bed.destroy("sub").await.unwrap();
    bed.destroy("web").await.unwrap();
    bed.jails.drop_release(&release()).await.unwrap();
    assert!(on_disk(dir.path()).is_empty() && bed.engine.list().is_empty());
    bed.end().await;
}
