//! `moat guest`: what virtual machines of the node on this machine boot.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use moat_model::units::format_bytes;
use moat_node::config::NodeConfig;
use moat_node::guest::{self, GuestView, Wish};
use owo_colors::Style;

use crate::failure::Failure;
use crate::output::Output;

/// What about the guest.
#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Make it from a kernel of this machine, in the place of the one that is there
    Build(BuildArgs),
    /// Show it, and check that its files are whole
    Show(ShowArgs),
}

/// Where the guest lies.
#[derive(Debug, Args)]
struct Place {
    /// Configuration of the node: TOML, or the JSON of a Nex node
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory of the node, in which the guest is the directory `guest`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// From what, and to where.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Kernel: a vmlinuz or an ELF vmlinux [default: the newest in /boot that has modules]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its modules [default: /lib/modules/VERSION; if that is not there, everything must be built in]
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Which of the installed kernels, as in /lib/modules
    #[arg(long, value_name = "VERSION", conflicts_with = "kernel")]
    kernel_version: Option<String>,
    /// Where to put it [default: where the node looks for it]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Which.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Directory of a guest [default: where the node looks for it]
    dir: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

impl Place {
    fn dir(&self) -> Result<PathBuf, Failure> {
        let mut config = match &self.config {
            Some(path) => NodeConfig::load(path)?,
            None => NodeConfig::default(),
        };
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        Ok(config.guest_dir())
    }
}

/// Does what was asked.
pub fn run(output: &Output, command: GuestCommand) -> Result<(), Failure> {
    match command {
        GuestCommand::Build(args) => {
            let dir = args.output.map_or_else(|| args.place.dir(), Ok)?;
            let wish = Wish { kernel: args.kernel, modules: args.modules, version: args.kernel_version };
            say(output, &guest::build(wish, &dir)?)
        }
        GuestCommand::Show(args) => {
            let dir = args.dir.map_or_else(|| args.place.dir(), Ok)?;
            say(output, &guest::show(&dir)?)
        }
    }
}

fn say(output: &Output, guest: &GuestView) -> Result<(), Failure> {
    if output.json {
        return output.document(guest);
    }
    let image = &guest.image;
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    let none = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(" ") };
    let lines = [
        ("guest", guest.dir.display().to_string()),
        (
            "kernel",
            format!("{} ({}, {})", image.kernel_version, format_bytes(guest.kernel_bytes), short(&image.kernel_sha256)),
        ),
        ("starts", if image.pvh { "PVH".to_owned() } else { "not under QEMU: the kernel has no PVH entry".to_owned() }),
        ("archive", format!("{}, {}", format_bytes(guest.modules_bytes), short(&image.modules_sha256))),
        ("modules", none(&image.modules)),
        ("absent", none(&image.absent)),
    ];
    for (name, value) in lines {
        output.line(&format!("{} {value}", output.styled(&format!("{name:<8}"), Style::new().dimmed())))?;
    }
    if image.modules.is_empty() {
        output.note("no modules: virtio devices, erofs, overlay and ext4 must be built into this kernel");
    }
    Ok(())
}
