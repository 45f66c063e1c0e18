//! `sysrc`, and the shell that reads what it wrote.

use crate::root::{Root, SHELLS, Shell};

#[test]
fn values_are_set_and_read() {
    let Some(root) = Root::new("sysrc", Shell::Dash) else { return };
    assert_eq!(root.ok("sysrc nats_enable=YES"), "nats_enable:  -> YES\n");
    assert_eq!(root.read("etc/rc.conf"), "nats_enable=\"YES\"\n");
    assert_eq!(root.ok("sysrc nats_enable=YES"), "nats_enable: YES -> YES\n");
    assert_eq!(
        root.ok(
            "sysrc nats_enable; sysrc -n nats_enable; sysrc -e nats_enable; sysrc -v nats_enable; sysrc -N nats_enable"
        ),
        "nats_enable: YES\nYES\nnats_enable=\"YES\"\n/etc/rc.conf: nats_enable: YES\nnats_enable\n"
    );
    assert_eq!(
        root.ok("sysrc -n list+=a; sysrc -n list+=b; sysrc -n list+=a; sysrc -n list-=a"),
        " -> a\na -> a b\na b -> a b\na b -> b\n"
    );
    assert_eq!(root.run("sysrc -c nats_enable=YES").1, 0);
    assert_eq!(root.run("sysrc -c nats_enable=NO").1, 1);
    assert_eq!(root.run("sysrc nothing"), ("sysrc: unknown variable 'nothing'\n".to_owned(), 1));
    assert_eq!(root.run("sysrc -i nothing"), (String::new(), 0));
    assert_eq!(root.ok("sysrc -a"), "list: b\nnats_enable: YES\n");
    assert_eq!(root.ok("sysrc rc_startmsgs"), "rc_startmsgs: YES\n");
    root.ok("sysrc -x list && sysrc -f /etc/other.conf one=1 two=2");
    assert_eq!(root.read("etc/rc.conf"), "nats_enable=\"YES\"\n");
    assert_eq!(root.read("etc/other.conf"), "one=\"1\"\ntwo=\"2\"\n");
    assert_eq!(root.run("sysrc -x list").1, 1);
    // Nobody reads the rest: no complaint.
    assert_eq!(root.ok("service -l >/dev/null; for n in 1 2 3; do sysrc -a | true; done"), "");
    // Where it is already set, also if that is read later.
    root.write("etc/rc.conf.local", "late=1\n", 0o600);
    root.ok("sysrc late=2");
    assert_eq!(root.read("etc/rc.conf.local"), "late=\"2\"\n");
    for bad in [
        "sysrc 'a b=1'",
        "sysrc 'a;touch /tmp/x=1'",
        "sysrc '$(touch /tmp/x)=1'",
        "sysrc",
        "sysrc -Z",
        "sysrc a.b=1",
        "sysrc -j x a=1",
    ] {
        assert_eq!(root.run(bad).1, 1, "{bad}");
    }
    assert_eq!(root.read("etc/rc.conf"), "nats_enable=\"YES\"\n");
}

#[test]
fn hostile_values_come_back_and_do_nothing() {
    let values = [
        "$(touch /tmp/x)",
        "`touch /tmp/x`",
        "\"; touch /tmp/x; \"",
        "'; touch /tmp/x; '",
        "'\"'\"$(touch /tmp/x)",
        "a\ntouch /tmp/x",
        "\\",
        "\\\"$(touch /tmp/x)",
        "${x:=$(touch /tmp/x)}",
        "# no comment",
        "*",
        "~",
        "a & touch /tmp/x &",
        "x\\\ny",
    ];
    for shell in SHELLS {
        let Some(root) = Root::new("B03-sysrc", shell) else { return };
        for value in values {
            let quoted = value.replace('\'', r"'\''");
            let text = root.ok(&format!(
                "sysrc -q hostile='{quoted}' >/dev/null && . /etc/rc.conf && printf '%s' \"$hostile\" && [ ! -e /tmp/x ]"
            ));
            assert_eq!(text, value, "{shell:?}");
            assert_eq!(root.ok("sysrc -n hostile"), format!("{value}\n"));
        }
        assert_eq!(root.read("etc/rc.conf").matches("hostile=").count(), 1);
    }
}
