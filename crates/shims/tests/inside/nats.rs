//! A service in the style of the template from the article: `rc.subr`, `daemon`, a pid file, a user of its own, commands of its
//! own. The server is a shell under another name that waits for signals.

use crate::root::{Root, SHELLS, Shell};

/// Written for this test; what it uses is what such scripts use.
const SCRIPT: &str = r#"#!/bin/sh
# PROVIDE: nats
# REQUIRE: LOGIN
# KEYWORD: shutdown

. /etc/rc.subr

name=nats
desc="A server of messages"
rcvar=`set_rcvar`
load_rc_config ${name}

: ${nats_enable:=NO}
: ${nats_user:=nats}
: ${nats_group:=nats}
: ${nats_options="/usr/local/etc/nats.sh"}

pidfile="/var/run/${name}.pid"
procname=/usr/local/bin/nats-server
command=/usr/sbin/daemon
command_args="-p ${pidfile} -o /var/log/nats.log ${procname} ${nats_options}"
start_precmd=nats_prestart
start_postcmd="echo after"
extra_commands="logrotate reload"
logrotate_cmd="kill -USR1 \$(cat ${pidfile})"

nats_prestart()
{
	install -o ${nats_user} -g ${nats_group} /dev/null ${pidfile}
	install -o ${nats_user} -g ${nats_group} /dev/null /var/log/nats.log
}

run_rc_command "$1"
"#;

const SERVER: &str = "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'echo term; exit 0' TERM\n\
    echo started as $(id -u) in $(pwd)\nwhile :; do sleep 1 & wait $!; done\n";

pub fn with_nats(id: &str, shell: Shell) -> Option<Root> {
    let root = Root::new(id, shell)?;
    root.bring("/usr/bin/dash", "usr/local/bin/nats-server");
    root.write("usr/local/etc/rc.d/nats", SCRIPT, 0o755);
    root.write("usr/local/etc/nats.sh", SERVER, 0o644);
    std::fs::create_dir_all(root.path("var/log")).unwrap();
    root.ok("pw groupadd nats && pw useradd -n nats -g nats -s /usr/sbin/nologin -w no");
    Some(root)
}

#[test]
fn a_service_lives_and_ends() {
    for shell in SHELLS {
        let Some(root) = with_nats("nats", shell) else { return };
        // Not enabled: said, and not started.
        assert_eq!(
            root.ok("service nats start"),
            "Cannot 'start' nats. Set nats_enable to YES in /etc/rc.conf or use 'onestart' instead of 'start'.\n"
        );
        let text = root.ok("sysrc -q nats_enable=YES >/dev/null\n\
             service nats status; echo $?\n\
             service nats start; echo $?\n\
             wait_for 'grep -q started /var/log/nats.log'\n\
             cat /var/log/nats.log\n\
             service nats status | sed 's/[0-9][0-9]*/N/; /Waiting/d'\n\
             service nats start | sed 's/[0-9][0-9]*/N/; /Waiting/d'\n\
             service nats reload; wait_for 'grep -q hup /var/log/nats.log'\n\
             service nats logrotate; wait_for 'grep -q usr1 /var/log/nats.log'\n\
             one=$(cat /var/run/nats.pid)\n\
             service nats restart | sed 's/[0-9][0-9]*/N/; /Waiting/d'\n\
             wait_for '[ -s /var/run/nats.pid ] && [ \"$(cat /var/run/nats.pid)\" != '$one' ]'\n\
             wait_for 'service nats status'\n\
             wait_for \"[ \\$(grep -c started /var/log/nats.log) = 1 ]\"\n\
             service nats stop | sed 's/[0-9][0-9]*/N/; /Waiting/d'\n\
             service nats status; echo $?\n\
             service nats stop; echo $?\n\
             ls /run/moat/stopped\n");
        let expected = "nats is not running.\n1\nStarting nats.\nafter\n0\nstarted as 1001 in /\n\
            nats is running as pid N.\nnats already running? (pid=N).\n\
            Stopping nats.\nStarting nats.\nafter\n\
            Stopping nats.\nnats is not running.\n1\nnats not running? (check /var/run/nats.pid).\n1\nnats\n";
        assert_eq!(text, expected, "{shell:?}");
    }
}

#[test]
fn what_a_script_is_asked_besides() {
    for shell in SHELLS {
        let Some(root) = with_nats("nats-verbs", shell) else { return };
        assert_eq!(root.run("service nats fly").1, 1);
        assert_eq!(root.run("service nats enabled").1, 1);
        assert_eq!(
            root.ok("service nats enable; service nats rcvar; service nats describe; service nats extracommands"),
            "nats enabled in /etc/rc.conf\n# nats : A server of messages\n#\nnats_enable=\"YES\"\n#   (default: \"\")\n\n\
             A server of messages\nlogrotate reload\n"
        );
        assert_eq!(root.run("service nats enabled").1, 0);
        assert_eq!(root.ok("service -e; service -l"), "/usr/local/etc/rc.d/nats\nnats\n");
        assert_eq!(root.ok("service nats disable"), "nats disabled in /etc/rc.conf\n");
        // One that is not enabled is started when asked so, and stopped the same way.
        let text = root.ok("service nats quietonestart; wait_for 'service nats onestatus'; service nats quietonestop; service nats onestatus || true");
        assert_eq!(text, "after\nnats is not running.\n");
    }
}

/// Everything else that a script may say about how it is started.
#[test]
fn variables_of_a_service() {
    for shell in SHELLS {
        let Some(root) = Root::new("rc-variables", shell) else { return };
        root.bring("/usr/bin/dash", "usr/local/bin/app");
        root.write("srv/x", "", 0o644);
        root.write(
            "usr/local/etc/rc.d/app",
            "#!/bin/sh\n. /etc/rc.subr\nname=app\nset_rcvar app_enable NO 'whether it runs'\nrcvar=app_enable\nload_rc_config $name\n\
             : ${app_chdir:=/srv}\n: ${app_env:=\"A=1 B=2\"}\n: ${app_nice:=5}\n: ${app_umask:=027}\n: ${app_flags:=\"-c\"}\n\
             command=/usr/local/bin/app\ncommand_args='\"pwd; echo \\$A \\$B; umask; id -un; id -G\" >/tmp/out'\n\
             required_files=/etc/app.conf\nrequired_dirs=/srv\nextra_commands=check\ncheck_cmd=app_check\n\
             app_check() { checkyesno app_enable && echo yes; load_rc_config_var app app_secret; echo \"$app_secret\"; }\n\
             run_rc_command \"$@\"\n",
            0o755,
        );
        root.ok("pw useradd -n worker -G log");
        let (text, status) = root.run("service app onestart");
        assert!(status == 1 && text.contains("/etc/app.conf is not readable"), "{text}");
        root.write("etc/app.conf", "", 0o644);
        root.ok("service app enable");
        root.ok("service app start && cat /tmp/out");
        assert_eq!(root.read("tmp/out"), "/srv\n1 2\n0027\nroot\n0\n", "{shell:?}");
        root.ok("sysrc app_user=worker app_secret='$(touch /tmp/x)' && rm /tmp/out && service app start");
        assert_eq!(root.read("tmp/out"), "/srv\n1 2\n0027\nworker\n1001 4\n", "{shell:?}");
        assert_eq!(root.ok("service app check"), "yes\n$(touch /tmp/x)\n");
        assert!(!root.path("tmp/x").exists());
    }
}

#[test]
fn functions_of_scripts() {
    for shell in SHELLS {
        let Some(root) = Root::new("rc-functions", shell) else { return };
        let text = root.ok(
            "service -l >/dev/null; . /etc/rc.subr; name=x\n\
             a=yes b=Off c=maybe; checkyesno a && echo a; checkyesno b || echo b; checkyesno c || echo c\n\
             reverse_list 1 2 3; set_rcvar; set_rcvar y; sleep 100 & p=$!\n\
             wait_for \"[ \\\"\\$(check_process sleep)\\\" = $p ]\"\n\
             echo $p >/tmp/pid; [ \"$(check_pidfile /tmp/pid /bin/sleep)\" = $p ] && echo found\n\
             [ -z \"$(check_pidfile /tmp/pid /bin/cat)\" ] && echo other; echo rubbish >/tmp/pid; check_pidfile /tmp/pid sleep\n\
             kill $p; rc_quiet=1; wait_for_pids $p; [ -z \"$(check_process sleep)\" ] && echo gone\n\
             load_kld if_tap || echo none; (err 7 'the end'); echo $?\n",
        );
        let text = text.replace("/bin/sh: ", "sh: ");
        let expected = "a\nb\nsh: WARNING: $c is not set properly - see rc.conf(5).\nc\n3 2 1\nx_enable\ny_enable\nfound\nother\ngone\n\
            sh: WARNING: kernel modules cannot be loaded in a jail: if_tap\nnone\nsh: ERROR: the end\n7\n";
        assert_eq!(text, expected, "{shell:?}");
    }
}

/// Scripts of the root's own packages, and what nothing in a jail can run.
#[test]
fn services_of_packages() {
    let Some(root) = Root::new("service-initd", Shell::Dash) else { return };
    root.write("etc/init.d/my-app", "#!/bin/sh\necho \"$1:$HOME:$SECRET\"\n", 0o755);
    root.write("usr/lib/systemd/system/web.service", "[Service]\n", 0o644);
    assert_eq!(root.ok("SECRET=1 service my-app onestart; service my-app force-reload"), "start:/:\nforce-reload:/:\n");
    assert_eq!(root.ok("service my-app enable; service -e"), "my-app enabled in /etc/rc.conf\n/etc/init.d/my-app\n");
    assert_eq!(root.read("etc/rc.conf").lines().last(), Some("my_app_enable=\"YES\""));
    let (text, status) = root.run("service web start");
    assert!(status == 1 && text.contains("has only a systemd unit (/usr/lib/systemd/system/web.service)"), "{text}");
    assert_eq!(root.run("service none start").1, 1);
    for name in ["../init.d/my-app", ".", "''"] {
        assert_eq!(root.run(&format!("service {name} start")).1, 64, "{name}");
    }
}
