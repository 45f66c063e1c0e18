//! `pw` on the files of a root.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::root::{Root, Shell};

#[test]
fn a_user_of_a_template() {
    let Some(root) = Root::new("pw", Shell::Dash) else { return };
    root.write("etc/gshadow", "root:*::\nlog:*::\n", 0o640);
    root.ok("pw groupadd nats && pw useradd -n nats -g nats -s /usr/sbin/nologin -w no");
    assert!(root.read("etc/group").ends_with("nats:x:1001:\n"));
    assert!(root.read("etc/gshadow").ends_with("nats:!::\n"));
    assert!(
        root.read("etc/passwd").ends_with("nats:x:1001:1001::/home/nats:/usr/sbin/nologin\n"),
        "{}",
        root.read("etc/passwd")
    );
    assert!(root.read("etc/shadow").contains("nats:*:"));
    let mode = |path| root.path(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("etc/passwd"), mode("etc/shadow")), (0o644, 0o640));

    // The same again is an error with FreeBSD's status.
    let (text, status) = root.run("pw useradd nats");
    assert_eq!((text.as_str(), status), ("pw: login name `nats' already exists\n", 65));
    let (text, status) = root.run("pw groupadd nats");
    assert_eq!((text.as_str(), status), ("pw: group name `nats' already exists\n", 65));
    assert_eq!(root.run("pw useradd -q nats"), (String::new(), 65));
    assert_eq!(root.run("pw usershow nobody").1, 67);
    assert_eq!(root.run("pw userdel nobody").1, 67);
    assert_eq!(root.run("pw groupdel nobody").1, 65);
    assert_eq!(root.run("pw useradd x -g nogroup").1, 67);
    assert_eq!(root.ok("pw usershow nats"), "nats:*:1001:1001::0:0::/home/nats:/usr/sbin/nologin\n");
}

#[test]
fn a_life() {
    let Some(root) = Root::new("pw", Shell::Ash) else { return };
    root.write("etc/skel/.profile", "x\n", 0o644);
    root.write("usr/share/skel/dot.shrc", "y\n", 0o644);
    root.ok("pw useradd ann -u 2000 -c 'Ann B' -m -M 0750 -G log,root -h - && pw user add bob -g log -d /srv/bob");
    assert!(root.read("etc/passwd").contains("ann:x:2000:2000:Ann B:/home/ann:/bin/sh\n"));
    assert!(root.read("etc/passwd").contains("bob:x:2001:4::/srv/bob:/bin/sh\n"));
    let home = root.path("home/ann").metadata().unwrap();
    assert_eq!((home.uid(), home.gid(), home.mode() & 0o7777), (2000, 2000, 0o750));
    assert_eq!(root.path("home/ann/.shrc").metadata().unwrap().uid(), 2000);
    assert!(root.read("etc/group").contains("log:x:4:ann\n"));

    root.ok("pw usermod ann -l anna -s /bin/ash -G '' && pw groupmod log -m anna,bob && pw groupmod -n log -d bob");
    assert!(root.read("etc/passwd").contains("anna:x:2000:2000:Ann B:/home/ann:/bin/ash\n"));
    assert!(root.read("etc/group").contains("log:x:4:anna\n"), "{}", root.read("etc/group"));
    assert!(root.read("etc/shadow").contains("\nanna:*:"));

    root.ok("pw lock anna && echo '$6$salt$hash' | pw usermod bob -H 0");
    assert!(root.read("etc/shadow").contains("anna:*LOCKED**:"));
    assert!(root.read("etc/shadow").contains("bob:$6$salt$hash:"));
    assert_eq!(root.run("pw lock anna").1, 65);
    root.ok("pw unlock anna && pw userdel anna -r && pw userdel 2001");
    assert!(!root.path("home/ann").exists());
    assert_eq!(root.read("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
    // The group that came with ann was called otherwise when she went, so it stays for whoever made it.
    assert_eq!(root.read("etc/group"), "root:x:0:\nlog:x:4:\nann:x:2000:\n");
    assert_eq!(root.run("pw userdel root").1, 65);
}

#[test]
fn hostile_words_change_nothing() {
    let Some(root) = Root::new("B03-pw", Shell::Dash) else { return };
    let before = (root.read("etc/passwd"), root.read("etc/group"), root.read("etc/shadow"));
    let names = [
        "a:b",
        "a:0:0::/root:/bin/sh",
        "$(touch /tmp/x)",
        "`touch /tmp/x`",
        "-x",
        "a b",
        "a\nroot2:x:0:0::/:/bin/sh",
        "a;b",
        "../a",
        "",
    ];
    for name in names {
        let quoted = name.replace('\'', r"'\''");
        for command in ["useradd -n", "groupadd -n", "usermod root -l"] {
            let (text, status) = root.run(&format!("pw {command} '{quoted}'"));
            assert!(matches!(status, 64 | 65), "{command} {name:?}: {status} {text}");
        }
    }
    for option in [
        "-c 'a:b'",
        "-c 'a\nb:x:0:0:'",
        "-d 'relative'",
        "-d '/a/../..'",
        "-s '/bin/sh\n'",
        "-u -1",
        "-u 4294967295",
        "-g 'a:b'",
        "-G 'log,a:b'",
    ] {
        let (text, status) = root.run(&format!("pw useradd evil {option}"));
        assert!(matches!(status, 65 | 67), "{option}: {status} {text}");
    }
    assert_eq!((root.read("etc/passwd"), root.read("etc/group"), root.read("etc/shadow")), before);
    // What is only text stays text.
    root.ok("pw useradd ok -c '$(touch /tmp/x) `touch /tmp/x`' && pw usershow ok");
    assert!(!root.path("tmp/x").exists());
}

#[test]
fn many_at_once_lose_nothing() {
    let Some(root) = Root::new("pw-lock", Shell::Ash) else { return };
    root.ok("for n in 1 2 3 4 5 6 7 8; do pw useradd u$n & done; wait; for n in 1 2 3 4 5 6 7 8; do pw usershow u$n || exit 1; done");
    let text = root.read("etc/passwd");
    let ids: std::collections::BTreeSet<&str> = text.lines().filter_map(|line| line.split(':').nth(2)).collect();
    assert_eq!((text.lines().count(), ids.len()), (9, 9));
}
