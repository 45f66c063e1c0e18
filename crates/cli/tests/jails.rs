//! The article "Running NATS on a FreeBSD Jail", typed as it stands there at a node of moat: `bastille …`, from the first
//! bootstrap to the last destroy. Its packages come from a directory of the release (`moat_testkit::article` says how), so it needs
//! no network; everything else is real: the server, the jails, the addresses, the template.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "jails/deaths.rs"]
mod deaths;
#[path = "jails/machine.rs"]
mod machine;
#[path = "jails/series.rs"]
mod series;
#[path = "jails/story.rs"]
mod story;

use std::collections::BTreeSet;
use std::process::Command;

use moat_testkit::{
    LeakAudit, article, busybox, exclusive, is_root, machines_alone, not_run, static_bin, tool, wait_until,
    workspace_root,
};
use story::{LONG, Story};

/// Where the article's three jails meet.
const SERVER: &str = "10.0.0.1";

/// The article, step by step, then what else is to be said of the same jails: one node for all of it.
#[tokio::test]
async fn the_article_runs_as_typed() {
    if !is_root() {
        return not_run("E3", "jails need root");
    }
    let (Some(server), Some(busybox)) = (tool("nats-server"), busybox()) else {
        return not_run("E3", "nats-server or busybox is not installed");
    };
    // The command line of NATS itself, where it is installed; it is written in Go and found nowhere as a package.
    let client = tool("nats").unwrap_or_else(|| static_bin("nats").unwrap());
    let _host = exclusive().unwrap();
    let (audit, network) = (LeakAudit::before(), network_of_host());
    let mut story = Story::begin("").await;
    article::release(&story.path("root"), &busybox, &server, &client).unwrap();
    article::template(&story.path("henomis/nats-jail-template")).unwrap();

    bootstrap(&mut story);
    nats_jail(&mut story);
    publisher_and_subscriber(&mut story);
    five_messages(&mut story).await;
    restart_brings_nats_back(&mut story).await;
    targets_and_refusals(&mut story);
    settings(&mut story);
    files_and_archives(&mut story);
    the_end(&mut story).await;

    let untyped = story.untyped(&workspace_root().join("docs/jails.md"));
    assert!(untyped.is_empty(), "docs/jails.md says what nobody typed: {untyped:#?}");
    audit.assert_same(LONG).await.unwrap();
    assert_eq!(network_of_host(), network, "links and tables of rules are as before");
}

/// What the series B asks of jails that run, on one node.
#[tokio::test]
async fn the_series_b_holds() {
    if !is_root() {
        return not_run("B01, B03 to B08, B10 to B12", "jails need root");
    }
    let (Some(_), Some(busybox)) = (tool("nats-server"), busybox()) else {
        return not_run("B01, B03 to B08, B10 to B12", "nats-server or busybox is not installed");
    };
    let _host = exclusive().unwrap();
    let (audit, network) = (LeakAudit::before(), network_of_host());
    series::all(&busybox).await;
    audit.assert_same(LONG).await.unwrap();
    assert_eq!(network_of_host(), network, "links and tables of rules are as before");
}

/// The daemon dies by SIGKILL in the middle of a create, a clone, an export and a template.
#[tokio::test]
async fn a_killed_daemon_leaves_nothing_half_made() {
    if !is_root() {
        return not_run("B05 killed, B11 killed", "jails need root");
    }
    let (Some(_), Some(busybox)) = (tool("nats-server"), busybox()) else {
        return not_run("B05 killed, B11 killed", "nats-server or busybox is not installed");
    };
    let _host = exclusive().unwrap();
    let (audit, network) = (LeakAudit::before(), network_of_host());
    deaths::all(&busybox).await;
    audit.assert_same(LONG).await.unwrap();
    assert_eq!(network_of_host(), network, "links and tables of rules are as before");
}

/// The same words for jails that are machines.
#[tokio::test]
async fn a_jail_may_be_a_machine() {
    let id = "jails in machines";
    if !is_root() {
        return not_run(id, "jails need root");
    }
    let (Some(server), Some(busybox)) = (tool("nats-server"), busybox()) else {
        return not_run(id, "nats-server or busybox is not installed");
    };
    let client = tool("nats").unwrap_or_else(|| static_bin("nats").unwrap());
    let _host = exclusive().unwrap();
    let Some(machines) = machines_alone(id) else { return };
    let (audit, network) = (LeakAudit::before(), network_of_host());
    machine::all(&machines, &machine::Programs { busybox: &busybox, server: &server, client: &client }).await;
    audit.assert_same(LONG).await.unwrap();
    assert_eq!(network_of_host(), network, "links and tables of rules are as before");
}

/// Links and tables of rules of this host.
fn network_of_host() -> (BTreeSet<String>, String) {
    let links = std::fs::read_dir("/sys/class/net").unwrap();
    let links = links.map(|link| link.unwrap().file_name().to_string_lossy().into_owned()).collect();
    let tables = tool("nft").map(|nft| Command::new(nft).args(["list", "tables"]).output().unwrap().stdout);
    (links, String::from_utf8(tables.unwrap_or_default()).unwrap())
}

/// Steps 0 and 1.
fn bootstrap(story: &mut Story) {
    story.ok("bastille setup");
    story.refused("bastille create nats-jail 14.2-RELEASE 10.0.0.1", "14.2-RELEASE");
    story.ok("bastille bootstrap 14.2-RELEASE --from ./root");
    assert_eq!(story.ok("bastille list releases"), "14.2-RELEASE\n");
    let again = story.ok("bastille bootstrap 14.2-RELEASE --from ./root");
    assert!(again.contains("is there already"), "{again}");
    story.ok("bastille bootstrap ./henomis/nats-jail-template");
    story.ok("bastille bootstrap ./henomis/nats-jail-template");
    assert_eq!(story.ok("bastille list templates"), "henomis/nats-jail-template\n");
    let hooks = story.ok("bastille verify henomis/nats-jail-template");
    assert!(hooks.starts_with("henomis/nats-jail-template:2: PKG git\n"), "{hooks}");
    assert!(hooks.contains(": SERVICE nats start\n"), "{hooks}");
    std::fs::create_dir_all(story.path("me/bad")).unwrap();
    std::fs::write(story.path("me/bad/Bastillefile"), "PKG git\n\nFROB x\n").unwrap();
    story.ok("bastille bootstrap ./me/bad");
    story.refused("bastille verify me/bad", "me/bad/Bastillefile:3:1");
    story.ok("bastille destroy -y me/bad");
}

/// Steps 2 and 3.
fn nats_jail(story: &mut Story) {
    story.ok("bastille create nats-jail 14.2-RELEASE 10.0.0.1");
    let listed: serde_json::Value = serde_json::from_str(&story.ok("bastille list -j")).unwrap();
    let jail = &listed[0];
    let wanted =
        [("NAME", "nats-jail"), ("STATE", "Up"), ("TYPE", "thin"), ("IP ADDRESS", SERVER), ("RELEASE", "14.2-RELEASE")];
    for (heading, value) in wanted {
        assert_eq!(jail[heading], value, "{listed}");
    }
    assert!(story.ok("bastille cmd nats-jail hostname").ends_with("nats-jail\n"));
    let processes = story.ok("bastille -q cmd nats-jail ps -o comm");
    assert!(!processes.contains("nats-server"), "{processes}");
    let dry = story.ok("bastille template nats-jail henomis/nats-jail-template --dry-run");
    assert!(dry.contains("pw groupadd \"nats\""), "{dry}");
    assert_ne!(story.run("bastille -q cmd nats-jail grep nats /etc/group").code, Some(0));

    story.ok("bastille template nats-jail henomis/nats-jail-template");
    assert!(story.ok("bastille -q cmd nats-jail grep ^nats: /etc/passwd").contains("/usr/sbin/nologin"));
    let owner = story.ok("bastille -q cmd nats-jail stat -c \"%U:%G\" /usr/local/bin/nats-server");
    assert_eq!(owner.trim(), "nats:nats");
    let mode = story.ok("bastille -q cmd nats-jail stat -c %a /usr/local/etc/rc.d/nats");
    assert_eq!(mode.trim(), "755");
    let enabled = story.ok("bastille sysrc nats-jail nats_enable");
    assert!(enabled.contains("YES"), "{enabled}");
}

/// Steps 4 to 8.
fn publisher_and_subscriber(story: &mut Story) {
    story.ok("bastille create pub-jail 14.2-RELEASE 10.0.0.2");
    let none = story.ok("bastille -q cmd pub-jail ps -o args");
    assert!(!none.contains("nats-server"), "{none}");
    story.ok("bastille pkg pub-jail install -y git go");
    story.ok("bastille cmd pub-jail go install github.com/nats-io/natscli/nats@latest");
    story.ok("bastille cmd pub-jail test -x /root/go/bin/nats");
    story.ok("bastille clone pub-jail sub-jail 10.0.0.3");
    assert!(story.ok("bastille list -d -j").contains("sub-jail"), "a clone is down");
    story.refused("bastille cmd sub-jail true", "is not running");
    story.ok("bastille start sub-jail");
    let mut sums = ["bastille -q cmd pub-jail", "bastille -q cmd sub-jail"]
        .map(|cmd| story.ok(&format!("{cmd} md5sum /root/go/bin/nats")));
    sums.sort();
    assert_eq!(sums[0], sums[1]);
    let names = story.ok("bastille -q cmd sub-jail hostname");
    assert_eq!(names, "sub-jail\n");
}

/// Clients the server has, as it says itself.
fn connections(story: &mut Story) -> String {
    story.run("bastille -q cmd nats-jail wget -q -O - http://127.0.0.1:8222/connz?subs=1").out
}

/// Steps 9 to 12. Core NATS keeps nothing for late subscribers: the server must have the subscription first.
async fn five_messages(story: &mut Story) {
    let mut subscriber = story.start("bastille cmd sub-jail /root/go/bin/nats --server 10.0.0.1 sub my.topic");
    wait_until(LONG, "the subscriber is known to the server", async || {
        let known = connections(story);
        (known.contains("10.0.0.3") && known.contains("my.topic")).then_some(())
    })
    .await
    .unwrap_or_else(|e| panic!("{e}: {}", subscriber.said()));

    story.ok(
        "bastille cmd pub-jail /root/go/bin/nats --server 10.0.0.1 pub my.topic \"message {{.Count}} - {{.TimeStamp}}\" \
         --count 5",
    );
    wait_until(LONG, "five messages", async || subscriber.said().contains("message 5 - ").then_some(()))
        .await
        .unwrap_or_else(|e| panic!("{e}: {}", subscriber.said()));
    subscriber.interrupt();
    let status = subscriber.ended().await;
    assert_ne!(status.code(), None, "{status:?}");

    let said = subscriber.said();
    let headers: Vec<_> = said.lines().filter(|line| line.contains("Received on \"my.topic\"")).collect();
    let numbers: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("message ")).collect();
    assert_eq!((headers.len(), numbers.len()), (5, 5), "{said}");
    for (at, (header, text)) in headers.iter().zip(&numbers).enumerate() {
        assert!(header.contains(&format!("[#{}]", at + 1)), "{said}");
        let (number, stamp) = text.split_once(" - ").unwrap();
        assert_eq!(number, (at + 1).to_string(), "{said}");
        assert!(stamp.starts_with(|c: char| c.is_ascii_digit()), "{said}");
    }
    wait_until(LONG, "the subscriber is gone", async || (!connections(story).contains("my.topic")).then_some(()))
        .await
        .unwrap();
    assert!(story.ok("bastille list -u -j").contains("sub-jail"), "the jail stays up");
}

/// Enabled services start with their jail.
async fn restart_brings_nats_back(story: &mut Story) {
    story.ok("bastille restart nats-jail");
    wait_until(LONG, "NATS is back", async || connections(story).contains("server_id").then_some(())).await.unwrap();
    let status = story.ok("bastille service nats-jail nats status");
    assert!(status.contains("is running"), "{status}");
    story.ok("bastille logs nats-jail console");
}

/// B09 and the manners of B3, typed.
fn targets_and_refusals(story: &mut Story) {
    story.ok("bastille tags pub-jail add messaging,edge");
    story.ok("bastille tags sub-jail add messaging");
    let both = story.ok("bastille cmd messaging hostname");
    assert_eq!(both, "\n[pub-jail]:\npub-jail\n\n[sub-jail]:\nsub-jail\n", "B09");
    assert_eq!(story.ok("bastille tags ALL list edge"), "pub-jail\n");
    assert_eq!(story.ok("bastille -q cmd na hostname"), "nats-jail\n", "B09: the beginning of a name");
    story.ok("bastille tags pub-jail delete edge");
    story.refused("bastille cmd nobody true", "no such jail");
    story.refused("bastille destroy -y pub", "whole names");
    story.refused("bastille destroy -y ALL", "whole names");
    story.refused("bastille destroy sub-jail", "is running");
    story.refused("bastille create -V x 14.2-RELEASE 10.0.0.9", "-V (vnet)");
    story.refused("bastille create -L x 14.2-RELEASE 10.0.0.9", "-L (linux)");
    story.refused("bastille create 12 14.2-RELEASE 10.0.0.9", "jail name");
    story.refused("bastille create pub-jail 14.2-RELEASE 10.0.0.9", "pub-jail");
    story.refused("bastille config pub-jail set allow.raw_sockets 1", "raw sockets");
    story.refused("bastille zfs pub-jail set compress=on", "datasets");
    story.refused("bastille network pub-jail add em0", "network:");
    story.refused("bastille migrate pub-jail root@elsewhere", "migrate:");
    assert_eq!(story.run("bastille cmd pub-jail sh -c \"exit 7\"").code, Some(7));
    assert_eq!(story.run("bastille cmd messaging false").code, Some(2), "as many as failed");
    assert_eq!(
        story.run("bastille cmd pub-jail printf %s. \"a b\" \"{{x}}\" -y --json").out,
        "\n[pub-jail]:\na b.{{x}}.-y.--json."
    );
}

/// Properties, limits, redirects.
fn settings(story: &mut Story) {
    story.ok("bastille config sub-jail set priority 5");
    assert_eq!(story.ok("bastille -q config sub-jail get priority"), "5\n");
    let shown: serde_json::Value = serde_json::from_str(&story.ok("bastille -j config sub-jail get boot")).unwrap();
    assert_eq!(shown["bastille"]["jail"][0]["boot"], "on", "{shown}");
    let names = story.ok("bastille list jails");
    assert!(names.starts_with("sub-jail\n"), "B10: the lowest priority first: {names}");
    story.ok("bastille limits pub-jail add memoryuse 1G");
    assert_eq!(story.ok("bastille -q limits pub-jail list"), "memoryuse=1G\n");
    story.refused("bastille limits pub-jail add cputime 1", "not available on Linux");
    story.ok("bastille restart pub-jail");
    assert_eq!(story.ok("bastille -q limits pub-jail list"), "memoryuse=1G\n", "B08");
    story.ok("bastille limits pub-jail remove memoryuse");
    assert_eq!(story.ok("bastille -q limits pub-jail list"), "");
    story.ok("bastille rdr nats-jail tcp 42220 4222");
    assert_eq!(story.ok("bastille -q rdr nats-jail list"), "tcp 42220 4222\n");
    story.refused("bastille rdr sub-jail tcp 42220 4222", "42220");
    story.ok("bastille rdr nats-jail reset");
    assert_eq!(story.ok("bastille -q rdr nats-jail list"), "");
    story.refused("bastille mount pub-jail etc /mnt", "is not absolute");
    story.refused("bastille mount pub-jail /etc /mnt", "host_paths");
    story.ok("bastille monitor nats-jail add nats");
    assert_eq!(story.ok("bastille -q monitor nats-jail list"), "nats\n");
    story.ok("bastille monitor nats-jail delete nats");
}

/// Copies, snapshots, archives, names.
fn files_and_archives(story: &mut Story) {
    std::fs::write(story.path("note.txt"), "kept\n").unwrap();
    story.ok("bastille cp pub-jail note.txt /root/deep/note.txt");
    assert_eq!(story.ok("bastille -q cmd pub-jail cat /root/deep/note.txt"), "kept\n");
    story.ok("bastille jcp pub-jail /root/deep/note.txt sub-jail /root/note.txt");
    story.ok("bastille rcp sub-jail /root/note.txt back.txt");
    assert_eq!(std::fs::read_to_string(story.path("back.txt")).unwrap(), "kept\n");

    story.ok("bastille zfs sub-jail snapshot before");
    story.ok("bastille cmd sub-jail rm /root/note.txt");
    story.refused("bastille zfs sub-jail rollback before", "is running");
    story.ok("bastille zfs -a sub-jail rollback before");
    assert_eq!(story.ok("bastille -q cmd sub-jail cat /root/note.txt"), "kept\n");
    story.ok("bastille list snapshots");
    story.ok("bastille zfs sub-jail destroy before");

    story.ok("bastille stop sub-jail");
    story.ok("bastille rename sub-jail other-jail");
    let archive = story.ok("bastille export other-jail").trim().to_owned();
    story.ok("bastille destroy -y other-jail");
    let mut bytes = std::fs::read(story.path(&archive)).unwrap();
    let last = bytes.len() / 2;
    bytes[last] ^= 1;
    std::fs::write(story.path("bad.tar.zst"), &bytes).unwrap();
    std::fs::copy(story.path(&format!("{archive}.sha256")), story.path("bad.tar.zst.sha256")).unwrap();
    assert_eq!(story.run("bastille import bad.tar.zst").code, Some(1), "B06");
    story.ok(&format!("bastille import {archive}"));
    story.ok("bastille start other-jail");
    assert_eq!(story.ok("bastille -q cmd other-jail cat /root/note.txt"), "kept\n");
}

/// Step 13: nothing is left but what the node itself is.
async fn the_end(story: &mut Story) {
    story.ok("bastille stop ALL");
    assert_eq!(story.ok("bastille list -u -j").trim(), "[]");
    story.ok("bastille destroy -y \"nats-jail pub-jail other-jail\"");
    assert_eq!(story.ok("bastille list jails"), "");
    story.ok("bastille destroy -y 14.2-RELEASE");
    story.end().await;
}
