//! A release for the story of jails, and the template of its article. They need no network: busybox, and packages that come
//! from a directory of the release instead of a mirror. `apk` here is a stand-in for Alpine's: it knows the two packages of the
//! article, and `go` knows the two programs that the article builds with it; both are copied from what the tests have
//! installed.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Installs `go` and `git`: what `pkg` finds in the root and asks.
const APK: &str = r#"#!/bin/sh
# A package tool for a test: its packages lie in /opt/packages.
set -e
case "$1" in
update) exit 0 ;;
add)
	shift
	for package; do
		case "$package" in
		-*) ;;
		go) cp /opt/packages/go /usr/bin/go ;;
		git) cp /opt/packages/git /usr/bin/git ;;
		ca-certificates) ;; # comes with git for apk: pkg asks for both
		*) echo "apk: no package $package" >&2; exit 1 ;;
		esac
	done
	;;
*) echo "apk: $*: not known to this stand-in" >&2; exit 1 ;;
esac
"#;

/// `go install MODULE@VERSION`, for the two modules of the article.
const GO: &str = r#"#!/bin/sh
# Stands in for the Go tools: what they would build lies in /opt/packages.
set -e
[ "$1" = install ] || { echo "go version go0 (a stand-in)"; exit 0; }
bin="${GOPATH:-$HOME/go}/bin"
mkdir -p "$bin"
case "$2" in
github.com/nats-io/nats-server/v2@latest) cp /opt/packages/nats-server "$bin/nats-server" ;;
github.com/nats-io/natscli/nats@latest) cp /opt/packages/nats "$bin/nats" ;;
*) echo "go: no module $2 here" >&2; exit 1 ;;
esac
"#;

/// `install -o USER -g GROUP FROM TO`: Debian's busybox has none.
const INSTALL: &str = r#"#!/bin/sh
set -e
while getopts o:g: option; do
	case "$option" in
	o) user=$OPTARG ;;
	g) group=$OPTARG ;;
	*) exit 64 ;;
	esac
done
shift $((OPTIND - 1))
cp "$1" "$2"
chmod 755 "$2"
chown "${user:-root}:${group:-root}" "$2"
"#;

/// The Bastillefile of the article, with the ARG lines of the repository it names.
const BASTILLEFILE: &str = r#"# install required packages
PKG git
PKG go

ARG GO=/usr/local/bin/go
ARG GOPATH=/root/go
ARG INSTALL=/usr/bin/install
ARG NATS_VERSION=latest
ARG NATS_USER=nats
ARG NATS_GROUP=nats

# create default group
CMD pw groupadd "${NATS_GROUP}"
# create default user
CMD pw useradd -n "${NATS_USER}" -g "${NATS_GROUP}" -s /usr/sbin/nologin -w no

# download and install nats server
CMD "${GO}" install "github.com/nats-io/nats-server/v2@${NATS_VERSION}"
CMD "${INSTALL}" -o "${NATS_USER}" -g "${NATS_GROUP}" "${GOPATH}/bin/nats-server" /usr/local/bin/nats-server

CP usr /
CMD chmod a+x /usr/local/etc/rc.d/nats

SYSRC nats_enable=YES
SYSRC nats_user="${NATS_USER}"
SYSRC nats_group="${NATS_GROUP}"
SERVICE nats start
"#;

/// A script of FreeBSD's rc for the server: supervised by daemon(8), as another user.
const RC: &str = r#"#!/bin/sh

# PROVIDE: nats
# REQUIRE: DAEMON
# KEYWORD: shutdown

. /etc/rc.subr

name="nats"
rcvar="nats_enable"
load_rc_config "$name"

: "${nats_enable:=NO}"
: "${nats_user:=nats}"
: "${nats_group:=nats}"
: "${nats_options:=-a 0.0.0.0 -m 8222}"

pidfile="/var/run/${name}.pid"
command="/usr/sbin/daemon"
command_args="-f -r -P ${pidfile} -u ${nats_user} /usr/local/bin/nats-server ${nats_options}"
# daemon changes the user itself: what starts it must be root.
nats_user=""

run_rc_command "$1"
"#;

/// Makes the release below `dir`. `client` becomes what `go install …/nats@latest` brings.
pub fn release(dir: &Path, busybox: &Path, nats_server: &Path, client: &Path) -> io::Result<()> {
    for sub in [
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "usr/local/bin",
        "etc",
        "root",
        "tmp",
        "var/run",
        "var/log",
        "var/tmp",
        "opt/packages",
        "proc",
        "sys",
        "dev",
        "run",
        "home",
        "mnt",
    ] {
        fs::create_dir_all(dir.join(sub))?;
    }
    program(&dir.join("bin/busybox"), &fs::read(busybox)?)?;
    let listed = std::process::Command::new(busybox).arg("--list").output()?;
    // Package tools of distributions this is not are left out.
    let left_out = ["busybox", "dpkg", "dpkg-deb", "install", "rpm", "rpm2cpio"];
    for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| !left_out.contains(name)) {
        symlink("/bin/busybox", dir.join("bin").join(applet))?;
    }
    text(&dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    text(&dir.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    text(&dir.join("etc/shadow"), "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n")?;
    text(&dir.join("etc/shells"), "/bin/sh\n")?;
    text(&dir.join("etc/os-release"), "ID=story\nNAME=Story\nVERSION_ID=1\n")?;
    program(&dir.join("sbin/apk"), APK.as_bytes())?;
    program(&dir.join("usr/bin/install"), INSTALL.as_bytes())?;
    program(&dir.join("opt/packages/go"), GO.as_bytes())?;
    program(&dir.join("opt/packages/git"), b"#!/bin/sh\necho git version 0\n")?;
    program(&dir.join("opt/packages/nats-server"), &fs::read(nats_server)?)?;
    program(&dir.join("opt/packages/nats"), &fs::read(client)?)
}

/// Makes the article's template below `dir`, as its repository lies.
pub fn template(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir.join("usr/local/etc/rc.d"))?;
    text(&dir.join("Bastillefile"), BASTILLEFILE)?;
    text(&dir.join("README.md"), "The template of the article.\n")?;
    text(&dir.join("usr/local/etc/rc.d/nats"), RC)
}

fn program(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn text(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}
