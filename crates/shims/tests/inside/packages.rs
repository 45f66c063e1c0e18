//! `pkg` with package managers that only write down what they were asked.

use crate::root::{Root, Shell};

#[test]
fn what_managers_are_asked() {
    let Some(root) = Root::new("pkg", Shell::Ash) else { return };
    let (text, status) = root.run("pkg install -y git");
    assert!(status == 69 && text.contains("no package manager") && text.contains("apk"), "{text}");

    root.write("sbin/apk", "#!/bin/sh\necho apk \"$@\"\n[ \"$2\" != -e ] || exit 1\n", 0o755);
    root.write("usr/bin/go", "#!/bin/sh\necho real go\n", 0o755);
    assert_eq!(
        root.ok("pkg install -y git lang/go"),
        "apk add --update-cache git ca-certificates go ca-certificates\n"
    );
    assert_eq!(
        root.ok("/usr/local/bin/go; pkg install -y go >/dev/null; pkg remove -y nginx; pkg update"),
        "real go\napk del nginx\napk update\n"
    );
    assert_eq!(root.run("pkg info -e git"), (String::new(), 1));
    for bad in [
        "pkg",
        "pkg install",
        "pkg fly",
        "pkg install --root=/x git",
        "pkg install '$(touch /tmp/x)'",
        "pkg install 'a;b'",
    ] {
        assert_eq!(root.run(bad).1, 64, "{bad}");
    }

    // Debian's comes first where a root has both.
    root.write("usr/bin/apt-get", "#!/bin/sh\necho \"$DEBIAN_FRONTEND\" apt-get \"$@\"\n", 0o755);
    let text = root.ok("pkg install go");
    assert!(text.starts_with("noninteractive apt-get -qq update\nnoninteractive apt-get -y "), "{text}");
    assert!(text.ends_with(" install golang ca-certificates\n"), "{text}");
    root.write("usr/bin/apt-get", "#!/bin/sh\nexit 100\n", 0o755);
    assert_eq!(root.run("pkg install go").1, 100);
}
