//! A jail that is a machine: the same words, the same files, a kernel of its own.

use std::path::Path;

use moat_testkit::{Machines, article, wait_until};

use super::series::all_gone;
use super::story::{LONG, Story};

/// What the article's packages are made of here.
pub struct Programs<'a> {
    pub busybox: &'a Path,
    pub server: &'a Path,
    pub client: &'a Path,
}

/// All of it, on a node of its own.
pub async fn all(machines: &Machines, programs: &Programs<'_>) {
    let shown = tempfile::TempDir::new().unwrap();
    std::fs::write(shown.path().join("file"), "of the host\n").unwrap();
    let config = format!(
        "[qemu]\nprogram = {:?}\naccelerator = \"tcg\"\n[guest]\ndir = {:?}\n[jails]\nhost_paths = [{:?}]\n",
        machines.qemu,
        machines.guest,
        shown.path()
    );
    let mut story = Story::begin(&config).await;
    article::release(&story.path("root"), programs.busybox, programs.server, programs.client).unwrap();
    article::template(&story.path("henomis/nats-jail-template")).unwrap();
    story.ok("bastille bootstrap 14.2-RELEASE --from ./root");
    story.ok("bastille bootstrap ./henomis/nats-jail-template");

    is_a_machine(&mut story);
    a_template_furnishes_it(&mut story).await;
    a_clone_is_of_one_moment_and_another_machine(&mut story).await;
    its_files_are_those_of_any_jail(&mut story, shown.path());
    a_daemon_that_died_finds_it_again(&mut story).await;

    all_gone(&mut story).await;
}

fn is_a_machine(story: &mut Story) {
    story.ok("moat jail create --isolation microvm vm 14.2-RELEASE 10.79.0.1");
    story.ok("moat jail create beside 14.2-RELEASE 10.79.0.2");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(story.ok("bastille -q cmd beside uname -r"), kernel);
    assert_ne!(story.ok("bastille -q cmd vm uname -r"), kernel);
    assert_eq!(story.ok("bastille -q cmd vm hostname"), "vm\n");
    for list in ["moat ps --json", "moat sandbox ls --json"] {
        let listed = story.ok(list);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert!(listed.to_string().contains("microvm/tcg"), "{list}: {listed:#}");
    }
    assert_eq!(story.run("bastille cmd vm sh -c \"exit 7\"").code, Some(7));
}

/// The article's template, with the words of FreeBSD in it, runs in the machine, and its neighbour reaches what it started.
async fn a_template_furnishes_it(story: &mut Story) {
    story.ok("bastille template vm henomis/nats-jail-template");
    let owner = story.ok("bastille -q cmd vm stat -c \"%U:%G\" /usr/local/bin/nats-server");
    assert_eq!(owner.trim(), "nats:nats");
    reached(story).await;
    story.ok("bastille restart vm");
    reached(story).await;
}

async fn reached(story: &mut Story) {
    let line = "bastille -q cmd beside wget -q -O - http://10.79.0.1:8222/varz";
    let heard = wait_until(LONG, "NATS answers", async || story.run(line).out.contains("server_id").then_some(()));
    heard.await.unwrap();
}

/// It stands still while the last of it is copied, kernel and all.
async fn a_clone_is_of_one_moment_and_another_machine(story: &mut Story) {
    let writer = story.start(
        "bastille cmd vm sh -c \"n=0; while :; do n=$((n+1)); echo $n >/root/t; mv /root/t /root/x; \
         echo $n >/root/t; mv /root/t /root/y; done\"",
    );
    let upper = |story: &Story, jail: &str| story.path("up/node/jails/default").join(jail).join("files-1/upper");
    wait_until(LONG, "it writes", async || upper(story, "vm").join("root/y").exists().then_some(())).await.unwrap();
    story.ok("bastille clone vm twin 10.79.0.3");
    writer.interrupt();
    let read = |name: &str| {
        let text = std::fs::read_to_string(upper(story, "twin").join("root").join(name)).unwrap();
        text.trim().parse::<u64>().unwrap()
    };
    let (x, y) = (read("x"), read("y"));
    assert!(x == y || x == y + 1, "a copy of one moment: {x} and {y}");
    story.ok("bastille start twin");
    let [one, other] = ["vm", "twin"].map(|jail| story.ok(&format!("bastille -q cmd {jail} cat /etc/machine-id")));
    assert!(one != other && one.len() == 33, "{one} {other}");
    let kernels = ["vm", "twin"].map(|jail| story.ok(&format!("bastille -q cmd {jail} uname -r")));
    assert_eq!(kernels[0], kernels[1]);
    story.ok("bastille stop twin");
}

fn its_files_are_those_of_any_jail(story: &mut Story, shown: &Path) {
    std::fs::write(story.path("note.txt"), "kept\n").unwrap();
    story.ok("bastille cp vm note.txt /root/deep/note.txt");
    story.ok("bastille jcp vm /root/deep/note.txt beside /root/note.txt");
    assert_eq!(story.ok("bastille -q cmd beside cat /root/note.txt"), "kept\n");
    story.ok(&format!("bastille mount vm {} /mnt", shown.display()));
    story.ok("bastille limits vm add memoryuse 192M");
    story.ok("bastille restart vm");
    let total = story.ok("bastille -q cmd vm grep MemTotal /proc/meminfo");
    let kib: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((120 << 10..192 << 10).contains(&kib), "a machine has the memory its jail is limited to: {total}");
    assert_eq!(story.ok("bastille -q cmd vm cat /mnt/file"), "of the host\n");
    assert_ne!(story.run("bastille -q cmd vm sh -c \"echo x >/mnt/file\"").code, Some(0));
    story.ok("bastille umount vm /mnt");

    story.ok("bastille stop vm");
    let archive = story.ok("bastille export vm").trim().to_owned();
    story.ok("bastille destroy -y vm");
    story.ok(&format!("bastille import {archive}"));
    story.ok("bastille start vm");
    assert_eq!(story.ok("bastille -q cmd vm cat /root/deep/note.txt"), "kept\n");
}

async fn a_daemon_that_died_finds_it_again(story: &mut Story) {
    story.ok("bastille cmd vm sh -c \"echo alive >/tmp/alive\"");
    let boot = story.ok("bastille -q cmd vm cat /proc/sys/kernel/random/boot_id");
    story.kill();
    story.again().await;
    assert_eq!(story.ok("bastille -q cmd vm cat /tmp/alive /proc/sys/kernel/random/boot_id"), format!("alive\n{boot}"));
}
