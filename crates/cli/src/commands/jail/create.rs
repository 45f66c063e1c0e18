//! Making jails, and what they are made of.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use moat_api::rest::jail::UploadRelease;
use moat_model::ErrorKind;
use moat_model::Isolation;
use moat_model::jail::{
    Bootstrap, FetchTemplate, JailKind, NewJail, ReleaseName, ReleaseSource, ReleaseView, Tag, TemplateName,
    TemplateView,
};
use moat_model::network::NetworkMode;

use super::args::{BootstrapArgs, CreateArgs};
use super::front::Front;
use super::life::{name, release};
use super::words::Words;
use crate::failure::Failure;
use crate::parse;
use crate::tree::{self, Owners};

/// File that makes a directory a template.
const TEMPLATE_FILE: &str = "Bastillefile";

/// What of FreeBSD's a jail here has no use for, and what there is instead.
fn refuse(args: &CreateArgs) -> Result<(), Failure> {
    let own_stack = "every jail has a network stack, an address and a host name of its own already; leave it out";
    let given = [
        (
            args.linux,
            "-L (linux)",
            "every jail here is one of Linux: leave it out and name a release such as debian-12",
        ),
        (args.vnet, "-V (vnet)", own_stack),
        (args.bridge, "-B (bridge)", own_stack),
        (
            args.passthrough,
            "-P (passthrough)",
            "no interface of the host is given to a jail; `moat jail rdr` leads ports to it",
        ),
        (args.static_mac, "-M (static MAC)", own_stack),
        (args.vlan.is_some(), "-v (vlan)", own_stack),
        (args.dual, "-D (dual stack)", "jails have IPv4 only; leave it out"),
        (args.gateway.is_some(), "-g (gateway)", "the gateway of every jail is its node; leave it out"),
        (args.zfs.is_some(), "-Z (zfs options)", "jails lie in directories, not in datasets; leave it out"),
        (args.no_validate, "--no-validate", "releases may have any name; leave it out"),
        (args.os.is_some(), "--os", "images are for this node's platform; leave it out"),
        (args.data_path.is_some(), "--data-path", "volumes of an image are kept with the jail; leave it out"),
    ];
    match given.iter().find(|(given, ..)| *given) {
        Some((_, what, why)) => Err(Failure::new(ErrorKind::Unsupported, format!("{what}: {why}"))),
        None => Ok(()),
    }
}

/// Makes a jail.
pub async fn create(front: &Front, args: CreateArgs) -> Result<ExitCode, Failure> {
    refuse(&args)?;
    let request = request(args)?;
    let asked = request.name.clone();
    let ended = front.follow(front.client.create_jail(&request).await?).await?;
    let jail = ended.jail.ok_or_else(|| Failure::internal("create", "the node did not say what it made"))?;
    let address = jail.spec.network.address.map(|ip| format!(" at {ip}")).unwrap_or_default();
    front.say.info(&format!("{asked}: created{address}"))?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: CreateArgs) -> Result<NewJail, Failure> {
    let kind = match (args.thick, args.cloned, args.empty, args.oci) {
        (true, ..) => JailKind::Thick,
        (_, true, ..) => JailKind::Clone,
        (_, _, true, _) => JailKind::Empty,
        (_, _, _, true) => JailKind::Oci,
        _ => JailKind::Thin,
    };
    let mut words = Words::new(args.words, "moat jail create [OPTIONS] NAME RELEASE [IP]");
    let mut jail = NewJail::new(name(&words.take("NAME")?)?, None);
    jail.kind = kind;
    match kind {
        JailKind::Empty => {}
        JailKind::Oci => jail.image = Some(words.take("IMAGE")?),
        _ => jail.release = Some(release(&words.take("RELEASE")?)?),
    }
    jail.address = words.maybe();
    if let Some(interface) = words.maybe() {
        let why = format!("interface {interface}: every jail has a link of its own; leave it out");
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    words.end()?;
    jail.network = match (args.no_ip, args.network) {
        (true, _) => Some(NetworkMode::Isolated),
        (false, Some(mode)) => Some(mode_of(&mode)?),
        (false, None) => None,
    };
    if let Some(word) = args.isolation {
        jail.isolation = Isolation::parse(&word)
            .ok_or_else(|| Failure::invalid(format!("--isolation {word:?}: container or microvm")))?;
    }
    jail.nameservers = args.nameservers;
    jail.boot = !args.no_boot;
    jail.priority = args.priority;
    jail.depend = args.depend.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
    jail.tags = args.tags.iter().map(|text| tag(text)).collect::<Result<_, _>>()?;
    jail.env = parse::environment(&args.env)?;
    jail.start = kind != JailKind::Empty;
    Ok(jail)
}

/// A label, as typed.
pub fn tag(text: &str) -> Result<Tag, Failure> {
    Tag::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}

fn mode_of(text: &str) -> Result<NetworkMode, Failure> {
    let modes = [NetworkMode::Internet, NetworkMode::Internal, NetworkMode::Isolated];
    let found = modes.into_iter().find(|mode| mode.as_str() == text);
    found.ok_or_else(|| Failure::invalid(format!("--network {text:?}: internet, internal or isolated")))
}

/// Makes a release, or fetches templates.
pub async fn bootstrap(front: &Front, args: BootstrapArgs) -> Result<ExitCode, Failure> {
    if args.pkgbase {
        let why = "-p (pkgbase): releases are made of images, directories or archives; leave it out";
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    let mut words = Words::new(args.words, "moat jail bootstrap [-u] RELEASE [--from SOURCE] | URL | DIRECTORY");
    let what = words.take("RELEASE or URL")?;
    if let Some(arch) = words.maybe() {
        let why = format!("{arch}: releases are for this node's architecture; leave it out");
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    if args.from.is_none() && is_template(&what) {
        templates(front, &what, args.named.as_deref(), args.commit).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = release(&what)?;
    make_release(front, &name, args.from.as_deref(), args.update).await?;
    Ok(ExitCode::SUCCESS)
}

/// Names of releases have neither slashes nor colons, and a directory of templates is written with a slash.
pub fn is_template(what: &str) -> bool {
    what.contains('/') || what.contains(':') || what == "." || what == ".."
}

async fn make_release(front: &Front, name: &ReleaseName, from: Option<&str>, update: bool) -> Result<(), Failure> {
    let there = front.client.releases().await?.releases.iter().any(|release| release.name == *name);
    if there && !update {
        return front.say.info(&format!("release {name}: is there already; -u makes it anew"));
    }
    let path = from.map(Path::new).filter(|path| path.exists());
    let events = match (from, path) {
        (_, Some(path)) => {
            let format = format_of(path)?;
            let content = if path.is_dir() { tree::pack(path, Owners::Kept) } else { tree::read(path).await? };
            let query = UploadRelease { format: format.to_owned() };
            front.client.upload_release(name.as_str(), &query, content).await?
        }
        (from, None) => {
            let source = from.map(|image| ReleaseSource::Image(image.to_owned()));
            front.client.make_release(&Bootstrap { name: name.clone(), source, update }).await?
        }
    };
    let release: ReleaseView = front.follow(events).await?.result()?;
    front.say.info(&format!("release {}: {} layers, from {}", release.name, release.layers.len(), release.source))
}

/// What a directory or an archive is, by the files an image has at its top.
fn format_of(path: &Path) -> Result<&'static str, Failure> {
    if path.is_dir() {
        return Ok(if path.join("oci-layout").is_file() { "oci-archive" } else { "rootfs" });
    }
    let file = std::fs::File::open(path).map_err(|e| Failure::file("read", path, &e))?;
    let mut archive = tar::Archive::new(std::io::BufReader::new(file));
    // One that is packed cannot be looked into here: images are not packed as a whole.
    let Ok(entries) = archive.entries() else { return Ok("rootfs") };
    for entry in entries.map_while(Result::ok).take(ENTRIES_LOOKED_AT) {
        let name = entry.path().map(|path| path.to_string_lossy().trim_start_matches("./").to_owned());
        match name.as_deref() {
            Ok("oci-layout") => return Ok("oci-archive"),
            Ok("manifest.json" | "repositories") => return Ok("docker-archive"),
            _ => {}
        }
    }
    Ok("rootfs")
}

/// Entries of an archive after which it is taken for a root: images of a hundred layers have fewer.
const ENTRIES_LOOKED_AT: usize = 1000;

/// Fetches templates of a repository, or brings those of a directory of this machine.
pub async fn templates(
    front: &Front,
    what: &str,
    named: Option<&str>,
    commit: Option<String>,
) -> Result<Vec<TemplateName>, Failure> {
    let local = what.strip_prefix("file://").unwrap_or(what);
    let found: Vec<TemplateView> = if local != what || Path::new(local).is_dir() {
        bring(front, Path::new(local), named).await?
    } else {
        let request = FetchTemplate { url: what.to_owned(), commit };
        front.follow(front.client.fetch_templates(&request).await?).await?.result()?
    };
    for template in &found {
        let commit = template.commit.as_deref().map(|commit| format!(" at {commit}")).unwrap_or_default();
        front.say.info(&format!("template {}{commit}", template.name))?;
    }
    Ok(found.into_iter().map(|template| template.name).collect())
}

async fn bring(front: &Front, dir: &Path, named: Option<&str>) -> Result<Vec<TemplateView>, Failure> {
    let dir = dir.canonicalize().map_err(|e| Failure::file("read", dir, &e))?;
    let dirs = if dir.join(TEMPLATE_FILE).is_file() { vec![dir.clone()] } else { below(&dir)? };
    if dirs.is_empty() {
        return Err(Failure::new(ErrorKind::NotFound, format!("{}: no {TEMPLATE_FILE} in it", dir.display())));
    }
    if named.is_some() && dirs.len() > 1 {
        return Err(Failure::invalid(format!("--as: {} has {} templates", dir.display(), dirs.len())));
    }
    let mut views = Vec::new();
    for dir in dirs {
        let name = match named {
            Some(name) => name.to_owned(),
            None => last_two(&dir),
        };
        let name = TemplateName::parse(&name)
            .map_err(|e| Failure::invalid(e.to_string()).with_hint("--as names it: project/template"))?;
        views.push(front.client.upload_template(&name, tree::pack(&dir, Owners::Nobody)).await?);
    }
    Ok(views)
}

/// Directories with a template two levels down at most, as repositories of several have them.
fn below(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let list = |dir: &Path| -> Result<Vec<PathBuf>, Failure> {
        let failed = |e: std::io::Error| Failure::file("read", dir, &e);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    };
    let mut found = Vec::new();
    for first in list(dir)? {
        if first.join(TEMPLATE_FILE).is_file() {
            found.push(first);
        } else {
            found.extend(list(&first)?.into_iter().filter(|second| second.join(TEMPLATE_FILE).is_file()));
        }
    }
    Ok(found)
}

fn last_two(dir: &Path) -> String {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    format!("{}/{}", name(dir.parent()), name(Some(dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_and_templates_are_told_apart() {
        for template in ["https://h/u/r", "git@h:u/r", "./t", "file:///t", "u/t", "."] {
            assert!(is_template(template), "{template}");
        }
        for release in ["14.2-RELEASE", "debian-12", "ubuntu_noble"] {
            assert!(!is_template(release), "{release}");
        }
    }

    #[test]
    fn a_directory_is_called_by_its_last_two_names() {
        assert_eq!(last_two(Path::new("/srv/henomis/nats-jail-template")), "henomis/nats-jail-template");
    }
}
