//! `moat image`: the images in a node's store.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use moat_api::client::rest::{ByteStream, RestClient};
use moat_api::rest::image::{Collected, Image, PullImage, RegistryAuth};
use moat_model::units::format_bytes;

use super::sandbox::since;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::{Progress, shown};
use crate::tree::{self, Owners};
use crate::{complete, rest};

/// Names looked at in an archive to learn what it is: what tells stands near one of its ends, and archives are long.
const NAMES_LOOKED_AT: usize = 10_000;

/// What about images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// List images
    Ls,
    /// Remove references, or images by digest
    Rm(RmArgs),
    /// Bring an image from a file or directory of this machine
    Import(ImportArgs),
    /// Remove what no template, snapshot or sandbox needs
    Gc(GcArgs),
}

/// Which, and as whom.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// os/arch[/variant] [default: the node's]
    #[arg(long)]
    platform: Option<String>,
    /// User name for the registry; the password is read from MOAT_REGISTRY_PASSWORD [default: the node's own
    /// credentials]
    #[arg(long, value_name = "NAME")]
    registry_user: Option<String>,
    /// Image reference
    image: String,
}

/// Which.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// References or digests
    #[arg(required = true, value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    images: Vec<String>,
}

/// What, and as what.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What it is [default: found out from what is in it]
    #[arg(long)]
    format: Option<Format>,
    /// Archive, OCI layout directory, directory with a root file system, or - for an archive on standard input
    path: PathBuf,
    /// Reference to give it
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An OCI image layout
    OciArchive,
    /// What `docker save` writes
    DockerArchive,
    /// The files of a root file system
    Rootfs,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::Rootfs => "rootfs",
        }
    }
}

/// How much.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Also images that only a reference holds
    #[arg(short, long)]
    all: bool,
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: ImageCommand) -> Result<(), Failure> {
    let client = rest::client(global)?;
    match command {
        ImageCommand::Pull(args) => pull(&client, output, args).await,
        ImageCommand::Import(args) => import(&client, output, &args).await,
        ImageCommand::Ls => ls(&client, output).await,
        ImageCommand::Rm(args) => {
            for name in &args.images {
                let collected = client.delete_image(name).await?;
                gone(output, &collected)?;
            }
            Ok(())
        }
        ImageCommand::Gc(args) => gone(output, &client.collect_images(args.all).await?),
    }
}

async fn pull(client: &RestClient, output: &Output, args: PullArgs) -> Result<(), Failure> {
    let auth = match args.registry_user {
        None => None,
        Some(username) => {
            let password = std::env::var("MOAT_REGISTRY_PASSWORD").map_err(|_| {
                Failure::invalid("--registry-user: MOAT_REGISTRY_PASSWORD is not set")
                    .with_hint("a password on the command line would be seen by everybody on this machine")
            })?;
            Some(RegistryAuth { username, password })
        }
    };
    let events = client.pull(&PullImage { image: args.image, platform: args.platform, auth }).await?;
    said(output, &Progress::new(output).follow(events).await?)
}

async fn import(client: &RestClient, output: &Output, args: &ImportArgs) -> Result<(), Failure> {
    let (format, archive) = source(&args.path, args.format).await?;
    let events = client.import(&args.name, format.name(), archive).await?;
    said(output, &Progress::new(output).follow(events).await?)
}

fn said(output: &Output, image: &Image) -> Result<(), Failure> {
    if output.json { output.document(image) } else { output.line(&image.digest) }
}

/// What is at a path, and its bytes.
async fn source(path: &Path, format: Option<Format>) -> Result<(Format, ByteStream), Failure> {
    if path == Path::new("-") {
        let format = format.ok_or_else(|| Failure::invalid("--format: standard input does not tell what it is"))?;
        return Ok((format, tree::stdin()));
    }
    if path.is_dir() {
        let layout = path.join("oci-layout").is_file();
        let format = format.unwrap_or(if layout { Format::OciArchive } else { Format::Rootfs });
        return Ok((format, tree::pack(path, Owners::Kept)));
    }
    let format = match format {
        Some(format) => format,
        None => {
            let path = path.to_owned();
            let looked = tokio::task::spawn_blocking(move || look(&path)).await;
            looked.map_err(|e| Failure::internal("look into the archive", e))??
        }
    };
    Ok((format, tree::read(path).await?))
}

fn look(path: &Path) -> Result<Format, Failure> {
    let file = std::fs::File::open(path).map_err(|e| Failure::file("read", path, &e))?;
    let failed = |e: std::io::Error| {
        Failure::invalid(format!("{}: {e}", path.display())).with_hint("a compressed archive needs --format")
    };
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(failed)?.take(NAMES_LOOKED_AT) {
        let entry = entry.map_err(failed)?;
        match entry.path().map_err(failed)?.to_string_lossy().trim_start_matches("./") {
            "oci-layout" => return Ok(Format::OciArchive),
            "manifest.json" => return Ok(Format::DockerArchive),
            _ => {}
        }
    }
    Ok(Format::Rootfs)
}

async fn ls(client: &RestClient, output: &Output) -> Result<(), Failure> {
    let list = client.images().await?;
    if output.json {
        return output.document(&list.images);
    }
    let rows = list.images.into_iter().map(|i| {
        let references = if i.references.is_empty() { "-".to_owned() } else { i.references.join(" ") };
        let used = if i.used_by.is_empty() { "-".to_owned() } else { i.used_by.join(" ") };
        [shown(&i.digest), references, i.platform, format_bytes(i.bytes), since(&i.created_at), used]
    });
    output.table(["DIGEST", "REFERENCES", "PLATFORM", "SIZE", "AGE", "USED BY"], rows.collect())
}

fn gone(output: &Output, collected: &Collected) -> Result<(), Failure> {
    if output.json {
        return output.document(collected);
    }
    for digest in &collected.images {
        output.line(&format!("removed {digest}"))?;
    }
    output.line(&format!("{} files, {} given back", collected.files, format_bytes(collected.bytes)))
}
