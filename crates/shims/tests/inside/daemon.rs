//! `daemon`.

use crate::root::{Root, Shell};

#[test]
fn it_goes_into_the_background_and_keeps_files() {
    let Some(root) = Root::new("daemon", Shell::Ash) else { return };
    let text = root.ok(
        "cd /tmp; daemon -c -f -p /tmp/child -P /tmp/own sleep 1000; echo $?\n\
         [ \"$(readlink /proc/$(cat child)/cwd)\" = / ] && [ \"$(readlink /proc/$(cat child)/fd/1)\" = /dev/null ] && echo placed\n\
         [ \"$(cut -d' ' -f4 /proc/$(cat child)/stat)\" = \"$(cat own)\" ] && echo parent\n\
         daemon -p /tmp/child sleep 1 2>&1 | sed 's/[0-9][0-9]*/N/'\n\
         pid=$(cat child); kill $(cat own); wait_for '[ ! -e own ]'; [ ! -e child ] && echo removed\n\
         /.moat/moat-shims wait-processes -t 60 $pid && echo ended\n",
    );
    assert_eq!(text, "0\nplaced\nparent\ndaemon: process already running, pid: N\nremoved\nended\n");
}

#[test]
fn it_starts_again_what_ended() {
    let Some(root) = Root::new("daemon-r", Shell::Dash) else { return };
    let text = root.ok(
        "daemon -r -p /tmp/child -P /tmp/own -o /tmp/out sh -c 'echo run; sleep 1000'\n\
         one=$(cat /tmp/child); kill $one\n\
         wait_for '[ -s /tmp/child ] && [ \"$(cat /tmp/child)\" != '$one' ]'\n\
         wait_for '[ \"$(grep -c run /tmp/out)\" = 2 ]'\n\
         kill $(cat /tmp/own); wait_for '[ ! -e /tmp/own ]'; [ -e /tmp/child ] || echo removed\n\
         daemon -R 1 -C 2 -P /tmp/own -o /tmp/counted sh -c 'echo x'; wait_for '[ ! -e /tmp/own ]'; cat /tmp/counted\n",
    );
    assert_eq!(text, "removed\nx\nx\nx\n");
}

#[test]
fn users_output_and_refusals() {
    let Some(root) = Root::new("daemon-u", Shell::Dash) else { return };
    root.ok("pw useradd -n worker -G log");
    let text = root.ok(
        "daemon -u worker -p /run/w.pid -o /tmp/out sh -c 'id -u; id -G; echo $HOME'; wait_for '[ ! -e /run/w.pid ]'; cat /tmp/out\n\
         daemon -u worker sh -c 'id -un >/tmp/alone'; wait_for '[ -s /tmp/alone ]'; cat /tmp/alone\n\
         daemon -H -o /tmp/log -p /run/l.pid -P /run/s.pid sh -c 'trap \"exit 0\" TERM; while :; do echo line; usleep 50000; done'\n\
         wait_for '[ -s /tmp/log ]'; mv /tmp/log /tmp/log.0; kill -HUP $(cat /run/s.pid); wait_for '[ -s /tmp/log ]'\n\
         kill $(cat /run/s.pid); wait_for '[ ! -e /run/s.pid ]'; echo rotated\n",
    );
    assert_eq!(text, "1001\n1001 4\n/home/worker\nworker\nrotated\n");
    let (text, status) = root.run("daemon -p /run/x /no/such/program");
    assert!(status == 1 && text.contains("/no/such/program: No such file"), "{text}");
    assert!(!root.path("run/x").exists());
    // Whoever reads the output of the call is not kept waiting, and the program does not die of it.
    let text = root.ok(
        "mkdir -p /run/moat; daemon -p /run/q.pid sh -c 'echo lost; sleep 1000' | cat; kill $(cat /run/q.pid)\n\
         /.moat/init >/tmp/console 2>&1 & init=$!; wait_for 'grep -q \"init: up\" /tmp/console'\n\
         daemon -p /run/r.pid sh -c 'echo kept; sleep 1000' | cat; wait_for 'grep -q kept /tmp/console'\n\
         kill $(cat /run/r.pid) $init; wait $init\n",
    );
    assert_eq!(text, "");
    assert_eq!(root.run("daemon -S sleep 1").1, 64);
    assert_eq!(root.run("daemon -l nowhere sleep 1").1, 64);
    assert_eq!(root.run("daemon -u nobodyknows sleep 1").1, 1);
    assert_eq!(root.run("daemon").1, 64);
    root.ok("ln -s /etc/passwd /tmp/link; daemon -p /tmp/link sleep 1; [ $? = 1 ] && grep -q root: /etc/passwd");
    assert_eq!(root.run("nologin"), ("This account is currently not available.\n".to_owned(), 1));
}
