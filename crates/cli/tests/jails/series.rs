//! The series B of the catalogue on jails that run: what one jail may do to another, to the host and to what it was made of.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use moat_testkit::{article, wait_until};
use sha2::{Digest, Sha256};

use super::story::{LONG, Said, Story};

/// A service of rc: a web server that `init` looks after.
const WEB: &str = r#"#!/bin/sh
# PROVIDE: web
. /etc/rc.subr
name=web
rcvar=web_enable
load_rc_config $name
pidfile=/var/run/web.pid
procname=/bin/httpd
command=/usr/sbin/daemon
command_args="-p $pidfile $procname -f -p 8080 -h /root"
run_rc_command "$1"
"#;

/// All of it, on a node of its own.
pub async fn all(busybox: &Path) {
    let shown = tempfile::TempDir::new().unwrap();
    std::fs::write(shown.path().join("file"), "of the host\n").unwrap();
    let mut story = Story::begin(&format!("[jails]\nhost_paths = [{:?}]\n", shown.path())).await;
    article::release(&story.path("root"), busybox, busybox, busybox).unwrap();

    b01_every_word(&mut story);
    story.ok("bastille create a 14.2-RELEASE 10.77.0.1");
    story.ok("bastille create b 14.2-RELEASE 10.77.0.2");
    b03_nothing_runs_on_the_host(&mut story);
    b04_one_cannot_touch_the_other(&mut story).await;
    b04_the_base_stays(&mut story);
    services_are_looked_after(&mut story).await;
    b07_redirects_carry(&mut story).await;
    b05_a_clone_is_whole_and_its_source_unchanged(&mut story).await;
    b06_archives(&mut story);
    b08_limits_hold(&mut story);
    b19_faults(&mut story);
    b11_a_create_that_fails_leaves_nothing(&mut story);
    b12_mounts(&mut story, shown.path());
    consoles_and_names(&mut story);
    b10_after_a_boot(&mut story).await;

    all_gone(&mut story).await;
}

/// Everything is stopped and destroyed, the release with it; nothing is left on disk, and the node ends.
pub async fn all_gone(story: &mut Story) {
    story.ok("bastille stop ALL");
    let names = story.ok("bastille list jails").replace('\n', " ");
    story.ok(&format!("bastille destroy -y \"{}\"", names.trim()));
    assert_eq!(jails_on_disk(story), Vec::<String>::new());
    story.ok("bastille destroy -y 14.2-RELEASE");
    story.end().await;
}

/// Files of a jail on the host.
fn upper(story: &Story, jail: &str) -> PathBuf {
    story.path("up/node/jails/default").join(jail).join("files-1/upper")
}

/// What is in the jails' directory, scratch included.
pub fn jails_on_disk(story: &Story) -> Vec<String> {
    let list = |dir: &str| {
        let entries = std::fs::read_dir(story.path(dir)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    [list("up/node/jails/default"), list("up/node/jails/.scratch")].concat()
}

/// Hashes of all files below a directory.
pub fn hashes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let (entry, path) = entry.map(|entry| (entry.file_type().unwrap(), entry.path())).unwrap();
            if entry.is_dir() {
                waiting.push(path);
            } else if entry.is_file() {
                found.insert(path.clone(), Sha256::digest(std::fs::read(path).unwrap()).to_vec());
            }
        }
    }
    found
}

/// A program in a jail must fail, in these words of its kernel.
fn fails(story: &mut Story, line: &str, words: &str) {
    let Said { code, out, err } = story.run(line);
    assert_ne!(code, Some(0), "{line}: {out}{err}");
    assert!(format!("{out}{err}").contains(words), "{line}: no {words:?} in {out}{err}");
}

fn b01_every_word(story: &mut Story) {
    for _ in 0..2 {
        story.ok("bastille bootstrap 14.2-RELEASE --from ./root");
        story.ok("bastille destroy -y 14.2-RELEASE");
    }
    story.ok("bastille bootstrap 14.2-RELEASE --from ./root");
    story.ok("bastille create -T thick 14.2-RELEASE 10.77.1.1");
    story.ok("bastille create -C pinned 14.2-RELEASE 10.77.1.2");
    story.ok("bastille create -E empty");
    story.ok("bastille create thin 14.2-RELEASE 10.77.1.3");
    for (at, kind) in ["thick", "pinned", "thin"].into_iter().enumerate() {
        story.ok(&format!("bastille cmd {kind} sh -c \"echo {kind} >/root/who\""));
        // A clone of it, and one of the clone.
        story.ok(&format!("bastille clone {kind} one 10.77.2.{at}"));
        story.ok(&format!("bastille clone one two 10.77.3.{at}"));
        story.ok("bastille start two");
        assert_eq!(story.ok("bastille -q cmd two cat /root/who"), format!("{kind}\n"));
        story.ok("bastille restart two");
        assert_eq!(story.ok("bastille -q cmd two cat /root/who"), format!("{kind}\n"));
        story.ok("bastille stop two");
        story.ok("bastille rename two three");
        story.ok("bastille destroy -y \"one three\"");
    }
    story.ok("bastille stop thin");
    story.ok("bastille convert -y thin");
    story.ok("bastille start thin");
    assert_eq!(story.ok("bastille -q cmd thin cat /root/who"), "thin\n");
    let listed: serde_json::Value = serde_json::from_str(&story.ok("bastille list -j")).unwrap();
    let types = |name: &str| {
        listed.as_array().unwrap().iter().find(|jail| jail["NAME"] == name).map(|jail| jail["TYPE"].clone()).unwrap()
    };
    assert_eq!(["thick", "pinned", "empty", "thin"].map(types), ["thick", "clone", "empty", "thick"]);
    b01_a_release_of_a_jail(story);
    story.refused("bastille create -B bridged 14.2-RELEASE 10.77.1.9", "-B (bridge)");
    story.ok("bastille stop ALL");
    story.ok("bastille destroy -y \"thick pinned empty thin\"");
}

/// What a jail became, others begin with: files, owners and modes, and not who it was.
fn b01_a_release_of_a_jail(story: &mut Story) {
    let writes =
        "cd /root; echo mine >mine; chown 12:34 mine; chmod 4750 mine; touch gone; rm gone; echo me >/etc/machine-id";
    let shows = "cd /root; stat -c '%u:%g %a' mine; cat mine who; cat gone /etc/machine-id 2>/dev/null; true";
    story.ok(&format!("bastille cmd thin sh -c \"{writes}\""));
    story.refused("bastille convert -y thin made-RELEASE", "is running");
    story.ok("bastille convert -a -y thin made-RELEASE");
    story.refused("bastille convert -a -y thin made-RELEASE", "is there already");
    story.ok("bastille create of-it made-RELEASE 10.77.1.4");
    let shown = |story: &mut Story, jail: &str| story.ok(&format!("bastille -q cmd {jail} sh -c \"{shows}\""));
    assert_eq!(shown(story, "of-it"), "12:34 4750\nmine\nthin\n");
    assert_eq!(shown(story, "thin"), "12:34 4750\nmine\nthin\nme\n");
    story.refused("bastille destroy -y made-RELEASE", "of-it");
    story.ok("bastille stop of-it");
    story.ok("bastille destroy -y of-it");
    story.ok("bastille destroy -y made-RELEASE");
}

/// Values that a shell would run, wherever values are taken.
fn b03_nothing_runs_on_the_host(story: &mut Story) {
    let witness = PathBuf::from(format!("/tmp/moat-b03-{}", std::process::id()));
    let touch = format!("touch {}", witness.display());
    let evil = story.path("me/evil");
    std::fs::create_dir_all(&evil).unwrap();
    std::fs::write(evil.join("rendered"), "value: ${X}\n").unwrap();
    let body = "ARG X=none\nARG Y=none\nCMD printf %s \"${X}\" >/root/arg\nSYSRC evil=\"${X}\"\n\
                LINE_IN_FILE \"${Y}\" /root/lines\nCP rendered /root/rendered\nRENDER /root/rendered\n";
    std::fs::write(evil.join("Bastillefile"), body).unwrap();
    story.ok("bastille bootstrap ./me/evil");
    for value in [format!("$({touch})"), format!("`{touch}`"), format!("x; {touch}"), format!("x' ; {touch} ; 'x")] {
        let file = story.path("values");
        std::fs::write(&file, format!("Y={value}\n")).unwrap();
        story.ok(&format!("bastille template a me/evil --arg \"X={value}\" --arg-file {}", file.display()));
        assert_eq!(story.ok("bastille -q cmd a cat /root/arg"), value);
        assert!(story.ok("bastille -q cmd a cat /root/lines").lines().any(|line| line == value));
        assert_eq!(story.ok("bastille -q cmd a cat /root/rendered"), format!("value: {value}\n"));
        story.ok("bastille cmd a rm /root/rendered");
        assert_eq!(story.ok(&format!("bastille -q cmd a printf %s \"{value}\"")), value);
        story.ok(&format!("bastille sysrc a \"other={value}\""));
        for (line, code) in [
            (format!("bastille tags a add \"{value}\""), 1),
            (format!("bastille limits a add memoryuse \"{value}\""), 1),
            (format!("bastille limits a add \"{value}\" 1"), 1),
            (format!("bastille config a set priority \"{value}\""), 1),
            (format!("bastille create \"{value}\" 14.2-RELEASE 10.77.0.9"), 1),
            (format!("bastille create x \"{value}\" 10.77.0.9"), 1),
            (format!("bastille create x 14.2-RELEASE \"{value}\""), 1),
            (format!("bastille clone a \"{value}\" 10.77.0.9"), 1),
            (format!("bastille rename a \"{value}\""), 1),
            (format!("bastille rdr a tcp \"{value}\" 80"), 1),
            (format!("bastille mount a \"/{value}\" /mnt"), 1),
            (format!("bastille bootstrap \"{value}\""), 1),
            (format!("bastille template a \"{value}\""), 1),
        ] {
            let said = story.run(&line);
            assert_eq!(said.code, Some(code), "{line}: {said:?}");
        }
        assert_ne!(story.run(&format!("bastille service a \"{value}\" start")).code, Some(0));
        assert_ne!(story.run(&format!("bastille pkg a install \"{value}\"")).code, Some(0));
        assert!(!witness.exists(), "{value} ran on the host");
        story.ok(&format!("bastille cmd a test ! -e {}", witness.display()));
    }
}

async fn b04_one_cannot_touch_the_other(story: &mut Story) {
    story.ok("bastille cmd b sh -c \"echo secret >/root/secret\"");
    let secret = upper(story, "b").join("root/secret");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret\n");
    fails(story, &format!("bastille -q cmd a cat {}", secret.display()), "No such file or directory");
    fails(story, "bastille -q cmd a cat /root/secret", "No such file or directory");
    let owner = |jail: &str| std::fs::metadata(upper(story, jail).join("root")).unwrap().uid();
    let (a, b) = (owner("a"), owner("b"));
    assert!(a >= 0x2000_0000 && a.is_multiple_of(65_536) && a.abs_diff(b) >= 65_536, "{a} and {b}");

    // A process of B: not seen, and not signalled, under the number it has on the host.
    let sleeper = story.start("bastille cmd b sleep 421234");
    let begun = async || process(&["sleep", "421234"]);
    let pid = wait_until(LONG, "it sleeps", begun).await.unwrap();
    assert!(!story.ok("bastille -q cmd a ps -o args").contains("421234"));
    assert!(story.ok("bastille -q cmd b ps -o args").contains("421234"));
    fails(story, &format!("bastille -q cmd a kill -9 {pid}"), "No such process");
    fails(story, &format!("bastille -q cmd a ls /proc/{pid}"), "No such file or directory");
    assert_eq!(process(&["sleep", "421234"]), Some(pid), "it lives");
    sleeper.interrupt();

    // Its packets and its address.
    fails(story, "bastille -q cmd a arping -c 1 -w 1 -I eth0 10.77.0.2", "Operation not permitted");
    fails(story, "bastille -q cmd a httpd -f -p 10.77.0.2:9", "Cannot assign requested address");
    fails(story, "bastille -q cmd a ip address add 10.77.0.2/32 dev eth0", "Operation not permitted");
    fails(story, "bastille -q cmd a ip link set eth0 promisc on", "Operation not permitted");
    fails(story, "bastille -q cmd a mount -t tmpfs none /mnt", "ermi");
}

/// A process of this host by its words, as the kernel of the host numbers it.
fn process(words: &[&str]) -> Option<u32> {
    let wanted: Vec<u8> = words.iter().flat_map(|word| [word.as_bytes(), &[0]].concat()).collect();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == wanted))
}

/// What jails share is written by none of them.
fn b04_the_base_stays(story: &mut Story) {
    let layers = |story: &Story| {
        let mut all = hashes(&story.path("up/node"));
        all.retain(|path, _| path.extension().is_some_and(|ending| ending == "erofs"));
        all
    };
    let before = layers(story);
    assert!(!before.is_empty(), "the release's layers are found");
    let kept = story.ok("bastille -q cmd b md5sum /opt/packages/go /bin/busybox");
    story.ok("bastille cmd a sh -c \"echo mine >/opt/packages/go; chmod 0 /opt/packages/git; rm /usr/bin/install\"");
    story.ok("bastille cmd a sh -c \"cp /bin/busybox /tmp/b; cat /tmp/b /tmp/b >/bin/busybox.new; mv /bin/busybox.new /opt/x\"");
    assert_eq!(story.ok("bastille -q cmd a cat /opt/packages/go"), "mine\n");
    assert_eq!(story.ok("bastille -q cmd b md5sum /opt/packages/go /bin/busybox"), kept);
    story.ok("bastille cmd b test -x /usr/bin/install");
    assert_eq!(layers(story), before, "B04: the shared files are as they were");
}

async fn services_are_looked_after(story: &mut Story) {
    std::fs::write(story.path("web"), WEB).unwrap();
    story.ok("bastille cp a web /usr/local/etc/rc.d/web");
    story.ok("bastille cmd a chmod 755 /usr/local/etc/rc.d/web");
    story.ok("bastille sysrc a web_enable=YES");
    story.ok("bastille cmd a sh -c \"echo page >/root/page\"");
    story.ok("bastille service a web start");
    served(story, "bastille -q cmd a wget -q -O - http://127.0.0.1:8080/page").await;
    let pid = story.ok("bastille -q cmd a cat /var/run/web.pid");
    story.ok(&format!("bastille cmd a kill -9 {}", pid.trim()));
    wait_until(LONG, "another one serves", async || {
        let now = story.run("bastille -q cmd a cat /var/run/web.pid").out;
        (!now.is_empty() && now != pid).then_some(())
    })
    .await
    .unwrap();
    served(story, "bastille -q cmd a wget -q -O - http://127.0.0.1:8080/page").await;
}

/// A line that is typed until it says `page`.
async fn served(story: &mut Story, line: &str) {
    wait_until(LONG, line, async || (story.run(line).out == "page\n").then_some(())).await.unwrap();
}

/// What is got from a port of the host.
fn asked(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

async fn b07_redirects_carry(story: &mut Story) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let carried = async || {
        let look = async || asked(port).ok().filter(|said| said.ends_with("page\n")).map(drop);
        wait_until(LONG, "the port leads to the jail", look).await.unwrap();
    };
    let closed = async || {
        let look = async || asked(port).err().filter(|e| e.kind() == ErrorKind::ConnectionRefused).map(drop);
        wait_until(LONG, "the port leads nowhere", look).await.unwrap();
    };
    closed().await;
    story.ok(&format!("bastille rdr a tcp {port} 8080"));
    carried().await;
    story.refused(&format!("bastille rdr b tcp {port} 80"), &port.to_string());
    story.refused(&format!("bastille rdr a tcp {port} 8080"), &port.to_string());
    story.ok("bastille restart a");
    carried().await;
    story.ok("bastille stop a");
    closed().await;
    assert_eq!(story.ok("bastille -q rdr a list"), format!("tcp {port} 8080\n"));
    story.ok("bastille start a");
    carried().await;
    story.ok("bastille rdr a reset");
    closed().await;
    story.ok("bastille restart a");
    served(story, "bastille -q cmd a wget -q -O - http://127.0.0.1:8080/page").await;
    closed().await;
    story.ok(&format!("bastille rdr a tcp {port} 8080"));
}

/// B05, B19_1, B19_2 and B19_3: what bounds and redirects the source has, the clone has not.
async fn b05_a_clone_is_whole_and_its_source_unchanged(story: &mut Story) {
    story.ok("bastille limits a add maxproc 200");
    story.ok("bastille cmd a sh -c \"mkdir /root/kept; for i in 1 2 3 4 5; do echo $i >/root/kept/$i; done\"");
    let kept = upper(story, "a").join("root/kept");
    let before = hashes(&kept);
    assert_eq!(before.len(), 5);
    // One file is always as the other, or one ahead.
    let writer = story.start(
        "bastille cmd a sh -c \"n=0; while :; do n=$((n+1)); echo $n >/root/t; mv /root/t /root/x; \
         echo $n >/root/t; mv /root/t /root/y; done\"",
    );
    wait_until(LONG, "it writes", async || upper(story, "a").join("root/y").exists().then_some(())).await.unwrap();
    for at in 1..=3 {
        story.ok(&format!("bastille clone a copy{at} 10.77.0.1{at}"));
        let read = |name: &str| {
            let text = std::fs::read_to_string(upper(story, &format!("copy{at}")).join("root").join(name)).unwrap();
            text.trim().parse::<u64>().unwrap()
        };
        let (x, y) = (read("x"), read("y"));
        assert!(x == y || x == y + 1, "B05: a copy of one moment: {x} and {y}");
    }
    writer.interrupt();
    assert_eq!(hashes(&kept), before, "the source is as it was");
    assert_eq!(hashes(&upper(story, "copy1").join("root/kept")).into_values().collect::<Vec<_>>(), {
        before.into_values().collect::<Vec<_>>()
    });
    assert_eq!(story.ok("bastille -q limits copy1 list"), "");
    assert_eq!(story.ok("bastille -q rdr copy1 list"), "");
    assert_eq!(story.ok("bastille -q limits a list"), "maxproc=200\n");
    story.ok("bastille start copy1");
    assert!(story.ok("bastille -q cmd copy1 ip address").contains("10.77.0.11"));
    assert_eq!(story.ok("bastille -q cmd copy1 hostname"), "copy1\n");
    // B19_1: each has a console of its own name, where `logs` looks.
    assert!(story.ok("bastille logs copy1 console").contains("init: up"));
    story.ok("bastille limits a remove maxproc");
    story.ok("bastille stop copy1");
    story.ok("bastille destroy -y \"copy2 copy3\"");
}

fn b06_archives(story: &mut Story) {
    let archive = story.ok("bastille export copy1").trim().to_owned();
    story.ok("bastille destroy -y copy1");
    let sum = story.path(&format!("{archive}.sha256"));
    let text = std::fs::read_to_string(&sum).unwrap();
    let other = if text.starts_with('0') { "1" } else { "0" };
    std::fs::write(&sum, format!("{other}{}", &text[1..])).unwrap();
    story.refused(&format!("bastille import {archive}"), "sha256");
    std::fs::remove_file(&sum).unwrap();
    story.refused(&format!("bastille import {archive}"), "sha256");
    assert!(!story.ok("bastille list jails").contains("copy1"));
    story.ok(&format!("bastille import -f {archive}"));
    story.ok("bastille start copy1");
    assert_eq!(story.ok("bastille -q cmd copy1 cat /root/kept/5"), "5\n");
    story.ok("bastille stop copy1");
    story.ok("bastille destroy -y copy1");
}

fn b08_limits_hold(story: &mut Story) {
    story.ok("bastille limits b add memoryuse 64M");
    story.ok("bastille limits b add maxproc 40");
    for _ in 0..2 {
        story.ok("bastille restart b");
        assert_eq!(story.ok("bastille -q limits b list"), "memoryuse=64M\nmaxproc=40\n");
        let hog = story.run("bastille -q cmd b dd if=/dev/zero of=/dev/null bs=200M count=1");
        assert_eq!(hog.code, Some(137), "B08: {hog:?}");
        let bomb = "bastille -q cmd b sh -c \"for i in $(seq 100); do sleep 1000 >/dev/null 2>&1 </dev/null & done\"";
        fails(story, bomb, "Resource temporarily unavailable");
    }
    story.ok("bastille limits b add memoryuse 512M");
    assert_eq!(story.ok("bastille -q limits b list"), "maxproc=40\nmemoryuse=512M\n", "one of a kind");
    story.ok("bastille limits b reset");
    assert_eq!(story.ok("bastille -q limits b list"), "");
    story.ok("bastille restart b");
    story.ok("bastille -q cmd b dd if=/dev/zero of=/dev/null bs=200M count=1");
}

/// Faults of Bastille that are not here: the others of the list are marked where they are met, B19_7 is B03, and B19_9 is
/// `targets_and_refusals` of the story.
fn b19_faults(story: &mut Story) {
    // B19_4: a reset takes all limits, whatever kinds there are; one of a kind is replaced, and a restart restarts.
    story.ok("bastille limits b add cpu 0");
    story.ok("bastille limits b add cpu 0-1");
    assert_eq!(story.ok("bastille -q limits b list"), "cpu=0-1\n");
    story.ok("bastille limits b reset");
    assert_eq!(story.ok("bastille -q limits b list"), "");
    story.ok("bastille cmd b sh -c \"echo old >/dev/shm/state\"");
    story.ok("bastille restart b");
    story.ok("bastille cmd b test ! -e /dev/shm/state");
    // B19_5: a property is taken away by its whole name.
    story.ok("bastille config b set host.hostname other");
    story.ok("bastille config b set priority 7");
    for part in ["host", "o"] {
        assert_eq!(story.run(&format!("bastille config b remove {part}")).code, Some(1), "{part}");
    }
    story.ok("bastille config b remove host.hostname");
    assert_eq!(story.ok("bastille -q config b get priority"), "7\n");
    story.ok("bastille config b remove priority");
    // B19_6: whatever verify finds, the template stays.
    let file = story.path("up/node/jails/.templates/default/me/evil/Bastillefile");
    std::fs::write(&file, "# no hook\n").unwrap();
    story.run("bastille verify me/evil");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "# no hook\n");
}

fn b11_a_create_that_fails_leaves_nothing(story: &mut Story) {
    let before = (jails_on_disk(story), story.ok("bastille list jails"));
    story.refused("bastille create c 14.2-RELEASE 10.77.0.1", "jail a");
    story.refused("bastille create c 9.9-RELEASE 10.77.0.3", "9.9-RELEASE");
    story.refused("bastille create c 14.2-RELEASE 127.0.0.1", "127.0.0.1");
    story.refused("bastille create --depend nobody c 14.2-RELEASE 10.77.0.3", "nobody");
    // B19_8: a clone's name follows the rules of every name.
    for name in ["a", "12", "x.y", "ALL"] {
        assert_eq!(story.run(&format!("bastille create {name} 14.2-RELEASE 10.77.0.3")).code, Some(1), "{name}");
        assert_eq!(story.run(&format!("bastille clone a {name} 10.77.0.3")).code, Some(1), "{name}");
    }
    assert_eq!((jails_on_disk(story), story.ok("bastille list jails")), before);
}

fn b12_mounts(story: &mut Story, shown: &Path) {
    story.ok(&format!("bastille mount b {} /mnt/shown nullfs ro 0 0", shown.display()));
    story.ok("bastille restart b");
    assert_eq!(story.ok("bastille -q cmd b cat /mnt/shown/file"), "of the host\n");
    fails(story, "bastille -q cmd b touch /mnt/shown/other", "Read-only file system");
    story.refused("bastille destroy -y -f b", "umount");
    story.ok("bastille stop b");
    story.refused("bastille destroy -y b", "umount");
    assert_eq!(std::fs::read_to_string(shown.join("file")).unwrap(), "of the host\n");
    story.ok("bastille umount b /mnt/shown");
    story.ok(&format!("bastille mount b {}/file /mnt/one nullfs ro 0 0", shown.display()));
    story.ok("bastille start b");
    assert_eq!(story.ok("bastille -q cmd b cat /mnt/one"), "of the host\n");
    story.ok("bastille umount b /mnt/one");
    story.ok("bastille restart b");
    assert_eq!(story.ok("bastille -q cmd b cat /mnt/one"), "", "the file it was mounted on stays");
}

fn consoles_and_names(story: &mut Story) {
    let said = story.fed("bastille -q console a", "pwd; id -u; echo $HOME $USER; exit 5\n");
    assert_eq!((said.out.as_str(), said.code), ("/root\n0\n/root root\n", Some(5)), "{said:?}");
    assert!(story.ok("bastille list -u -j").contains("\"a\""), "it stays up");
    assert_eq!(story.ok("bastille -q cmd b wget -q -O - http://a:8080/page"), "page\n", "siblings know their names");
    // Root inside may change users: nothing forbids programs to gain rights of the jail.
    story.ok("bastille cmd a pw useradd -n ann -s /bin/sh");
    assert_eq!(story.ok("bastille -q cmd a su ann -c \"id -un\""), "ann\n");
    assert!(story.ok("bastille -q cmd a grep NoNewPrivs /proc/self/status").contains('0'));
}

/// The host was booted: all that start with the node do, those that others stand on first.
async fn b10_after_a_boot(story: &mut Story) {
    story.ok("bastille create --no-boot never 14.2-RELEASE 10.77.0.4");
    story.ok("bastille create --depend b last 14.2-RELEASE 10.77.0.5");
    story.ok("bastille config last set priority 1");
    story.ok("bastille config a set priority 200");
    story.ok("bastille stop ALL");
    story.kill();
    std::fs::write(story.path("up/node/jails/.boot.json"), "another boot").unwrap();
    let said = story.log().len();
    story.again().await;
    let order = wait_until(LONG, "all are up", async || {
        let log = story.log();
        let lines = log[said..].lines().filter(|line| line.contains("started with the node"));
        let names: Vec<_> = lines.filter_map(|line| ["last", "a", "b"].into_iter().find(|n| of(line, n))).collect();
        (names.len() == 3).then_some(names)
    })
    .await
    .unwrap_or_else(|e| panic!("{e}: {}", story.log()));
    assert_eq!(order, ["b", "last", "a"], "B10");
    let up = story.ok("bastille list -u -j");
    assert!(!up.contains("never"), "{up}");
}

/// Whether a line of the log is about this jail.
fn of(line: &str, name: &str) -> bool {
    line.split([' ', '\u{1b}']).any(|word| word.ends_with(&format!("jail={name}")) || word == format!("jail={name}"))
}
