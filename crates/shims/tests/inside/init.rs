//! `init`: order, keeping up, the program of an image, the end.

use crate::nats::with_nats;
use crate::root::{Root, SHELLS, Shell};

/// A service that writes down what happens to it.
fn service(root: &Root, name: &str, top: &str) {
    root.bring("/usr/bin/dash", &format!("usr/local/bin/{name}"));
    let script = format!(
        "#!/bin/sh\n# PROVIDE: {name}\n{top}\n. /etc/rc.subr\nname={name}\nrcvar={name}_enable\nload_rc_config $name\n\
         pidfile=/var/run/{name}.pid\nprocname=/usr/local/bin/{name}\ncommand=/usr/sbin/daemon\n\
         command_args=\"-p $pidfile $procname -c 'while :; do sleep 1000; done'\"\n\
         start_precmd='echo start {name} >>/tmp/log'\nstop_postcmd='echo stop {name} >>/tmp/log'\nrun_rc_command \"$1\"\n"
    );
    root.write(&format!("usr/local/etc/rc.d/{name}"), &script, 0o755);
}

#[test]
fn services_start_in_order_stay_up_and_stop_in_reverse() {
    for shell in SHELLS {
        let Some(root) = Root::new("init", shell) else { return };
        service(&root, "web", "# REQUIRE: db");
        service(&root, "log", "# BEFORE: db");
        service(&root, "db", "# REQUIRE: NETWORKING");
        service(&root, "unused", "");
        let text = root.ok(
            "sysrc -q web_enable=YES db_enable=YES log_enable=YES >/dev/null\n\
             /.moat/init --stop-timeout 120 >/tmp/console 2>&1 & init=$!\n\
             wait_for 'grep -q \"init: up\" /tmp/console'; cat /tmp/log\n\
             for s in log db web; do service $s status >/dev/null || echo $s is down; done\n\
             one=$(cat /var/run/db.pid); kill -9 $one\n\
             wait_for 'service db status' ; wait_for '[ \"$(cat /var/run/db.pid)\" != '$one' ] && service db status'\n\
             service web stop >/dev/null; echo again >>/tmp/log; kill -HUP $init; wait_for 'grep -q reading /tmp/console'\n\
             sysrc -q unused_enable=YES >/dev/null; kill -HUP $init; wait_for 'service unused status'\n\
             kill $init; wait $init; echo ended $?\n\
             cat /tmp/log; for s in log db web unused; do service $s onestatus; done; true\n",
        );
        let expected = "start log\nstart db\nstart web\nended 0\n\
            start log\nstart db\nstart web\nstart db\nstop web\nagain\nstart unused\nstop db\nstop log\nstop unused\n";
        let (lines, statuses): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| !line.contains("running"));
        assert_eq!(statuses.len(), 4);
        assert!(statuses.iter().all(|line| line.ends_with("is not running.")), "{statuses:?}");
        let mut sorted: Vec<&str> = lines.clone();
        let mut wanted: Vec<&str> = expected.lines().collect();
        // Where `unused` comes among those it says nothing about is not promised.
        sorted.retain(|line| !line.ends_with("unused"));
        wanted.retain(|line| !line.ends_with("unused"));
        assert_eq!(sorted, wanted, "{shell:?}\n{text}\n{}", root.read("tmp/console"));
        assert!(lines.contains(&"stop unused"), "{text}");
    }
}

#[test]
fn a_service_of_a_template_comes_back_with_the_jail() {
    let Some(root) = with_nats("init-nats", Shell::Ash) else { return };
    // Enabled and started while the jail is up, as templates do: it is looked after from then on.
    let text = root.ok(
        "/.moat/init >/tmp/console 2>&1 & init=$!\n\
         wait_for 'grep -q \"init: up\" /tmp/console'\n\
         sysrc -q nats_enable=YES >/dev/null; service nats start >/dev/null; wait_for 'service nats status'\n\
         wait_for 'grep -q reading /tmp/console'; one=$(cat /run/nats.pid); kill -9 $one; wait_for '[ -s /run/nats.pid ] && [ \"$(cat /run/nats.pid)\" != '$one' ] && service nats status'\n\
         kill $init; wait $init; echo $?; service nats status\n\
         /.moat/init --watch nats >/tmp/console 2>&1 & init=$!; wait_for 'service nats status'; service nats status | cut -d' ' -f1-3\n\
         kill $init; wait $init\n",
    );
    assert_eq!(text, "0\nnats is not running.\nnats is running\n", "{}", root.read("tmp/console"));
}

#[test]
fn the_program_of_an_image_runs_besides() {
    let Some(root) = Root::new("init-program", Shell::Dash) else { return };
    let text = root.ok(
        "/.moat/init -- sh -c 'echo run >>/tmp/runs; trap \"echo term >>/tmp/runs; exit 0\" TERM; while :; do usleep 20000; done' >/tmp/console 2>&1 & init=$!\n\
         wait_for '[ -s /tmp/runs ]'; wait_for '[ -n \"$(cat /proc/'$init'/task/'$init'/children)\" ]'\n\
         kill -9 $(cat /proc/$init/task/$init/children); wait_for '[ \"$(grep -c run /tmp/runs)\" = 2 ]'\n\
         wait_for '[ -n \"$(cat /proc/'$init'/task/'$init'/children)\" ]'; usleep 1\n\
         kill $init; wait $init; echo $?\n",
    );
    assert_eq!(text, "0\n");
    let runs = root.read("tmp/runs");
    assert!(runs.starts_with("run\nrun\n"), "{runs}");
    root.ok("pw useradd -n worker -G log");
    let text = root.ok(
        "/.moat/init -- /.moat/moat-shims as -u worker -d /tmp -- sh -c 'id -un; id -G; pwd; sleep 1000' >/tmp/console 2>&1 & init=$!\n\
         wait_for 'grep -q ^/tmp /tmp/console'; kill $init; wait $init; grep -v ^init: /tmp/console\n",
    );
    assert_eq!(text, "worker\n1001 4\n/tmp\n");
    assert_eq!(root.run("/.moat/init rubbish").1, 64);
}

#[test]
fn broken_scripts_hold_nobody_up() {
    let Some(root) = Root::new("init-broken", Shell::Ash) else { return };
    root.write(
        "usr/local/etc/rc.d/bad",
        "#!/bin/sh\n# PROVIDE: bad\n# rc.subr\n[ \"$1\" = enabled ] && exit 0\nexit 3\n",
        0o755,
    );
    root.write("usr/local/etc/rc.d/noshell", "#!/no/such\n", 0o755);
    root.write("usr/local/etc/rc.d/loop1", "#!/bin/sh\n# PROVIDE: loop1\n# REQUIRE: loop2\n", 0o755);
    root.write("usr/local/etc/rc.d/loop2", "#!/bin/sh\n# PROVIDE: loop2\n# REQUIRE: loop1\n", 0o755);
    service(&root, "good", "");
    let text = root.ok(
        "sysrc -q good_enable=YES noshell_enable=YES >/dev/null; /.moat/init >/tmp/console 2>&1 & init=$!\n\
         wait_for 'service good status'; wait_for 'grep -q \"init: up\" /tmp/console'\n\
         wait_for '[ $(grep -c \"starting bad\" /tmp/console) -ge 2 ]'; kill $init; wait $init; echo $?; cat /tmp/console\n",
    );
    assert!(text.starts_with("0\n"), "{text}");
    assert!(text.contains("circular dependency") && text.contains("bad: its script ended with 3"), "{text}");
}
