//! `moat template`: images made ready for sandboxes.

use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use moat_api::client::rest::RestClient;
use moat_api::rest::sandbox::ResourceLimits;
use moat_api::rest::template::{Template, Warmup, WarmupStatus};
use moat_model::ErrorKind;
use moat_model::units::format_bytes;

use super::sandbox::since;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::{self, Progress};
use crate::{complete, parse, rest};

/// Between two looks at a warm-up: fast enough for a bar.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What about templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Make a template of an image, or a new version of one
    Warmup(WarmupArgs),
    /// List templates
    Ls,
    /// Say how far a warm-up is, and how the template's pool fares
    Status(NameArgs),
    /// Give a warm-up up; the version in use stays
    Cancel(NameArgs),
    /// Remove templates; sandboxes made from them live on
    Rm(NamesArgs),
}

/// Of what, and how.
#[derive(Debug, Args)]
pub struct WarmupArgs {
    /// Wait until it is ready
    #[arg(long)]
    wait: bool,
    /// os/arch[/variant] [default: the node's]
    #[arg(long)]
    platform: Option<String>,
    /// CPU limit of sandboxes that name none
    #[arg(long, value_name = "CORES", value_parser = parse::cpus)]
    cpus: Option<u32>,
    /// Memory limit of sandboxes that name none, in MiB
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u64>,
    /// Environment over the image's; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// User instead of the image's
    #[arg(long = "as", value_name = "USER")]
    run_as: Option<String>,
    /// Working directory instead of the image's
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// Name of the template
    name: String,
    /// Image reference
    image: String,
}

/// Which.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name of the template
    #[arg(add = ArgValueCandidates::new(complete::templates))]
    name: String,
}

/// Which.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Names of templates
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(complete::templates))]
    names: Vec<String>,
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: TemplateCommand) -> Result<(), Failure> {
    let client = rest::client(global)?;
    match command {
        TemplateCommand::Warmup(args) => warm_up(&client, output, args).await,
        TemplateCommand::Ls => ls(&client, output).await,
        TemplateCommand::Status(args) => status(&client, output, &args.name).await,
        TemplateCommand::Cancel(args) => {
            let status = client.cancel_warmup(&args.name).await?;
            said(output, &status)
        }
        TemplateCommand::Rm(args) => {
            for name in &args.names {
                client.delete_template(name).await?;
                if output.json { output.record(&serde_json::json!({ "name": name }))? } else { output.line(name)? }
            }
            Ok(())
        }
    }
}

async fn warm_up(client: &RestClient, output: &Output, args: WarmupArgs) -> Result<(), Failure> {
    let request = Warmup {
        name: args.name,
        image: args.image,
        platform: args.platform,
        resources: ResourceLimits {
            vcpu: args.cpus.map(|millis| f64::from(millis) / 1000.0),
            memory_mb: args.memory_mb,
            ..ResourceLimits::default()
        },
        env: parse::environment(&args.env)?,
        user: args.run_as,
        workdir: args.workdir,
    };
    let mut status = client.warm_up(&request).await?;
    if !args.wait {
        return said(output, &status);
    }
    let mut progress = Progress::new(output);
    while status.status == "warming" {
        progress.show(&status.phase, &status.layers);
        tokio::time::sleep(LOOK_EVERY).await;
        status = client.warmup_status(&request.name).await?;
    }
    progress.show(&status.phase, &status.layers);
    said(output, &status)
}

/// Says how a warm-up stands; one that failed is a failure of the command.
fn said(output: &Output, status: &WarmupStatus) -> Result<(), Failure> {
    if output.json {
        output.document(status)?;
    }
    match (&status.error, status.status.as_str()) {
        (Some(error), "failed") => Err(progress::told(error.clone())),
        (None, "failed") => Err(Failure::new(ErrorKind::Internal, format!("{}: the warm-up failed", status.name))),
        _ if output.json => Ok(()),
        (_, "ready") => output.line(&format!("{} version {} is ready", status.name, status.version)),
        (_, other) => output.line(&format!("{} is {other} ({})", status.name, status.phase)),
    }
}

async fn ls(client: &RestClient, output: &Output) -> Result<(), Failure> {
    let list = client.templates().await?;
    if output.json {
        return output.document(&list.templates);
    }
    let rows = list.templates.iter().map(row).collect();
    output.table(["NAME", "IMAGE", "VERSION", "STATUS", "SIZE", "SANDBOXES", "POOL", "AGE"], rows)
}

fn row(template: &Template) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let pool = template.pool.as_ref().map(|pool| format!("{}/{}", pool.ready, pool.max_ready));
    [
        template.name.clone(),
        or_dash(template.image.clone()),
        if template.image.is_some() { template.version.to_string() } else { "-".to_owned() },
        template.status.clone(),
        or_dash(template.bytes.map(format_bytes)),
        template.sandboxes.to_string(),
        or_dash(pool),
        or_dash(template.created_at.as_deref().map(since)),
    ]
}

async fn status(client: &RestClient, output: &Output, name: &str) -> Result<(), Failure> {
    let template = client.template(name).await?;
    let warmup = match client.warmup_status(name).await {
        Ok(status) => Some(status),
        // `host` and `scratch` were never warmed up.
        Err(error) if error.kind == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    if output.json {
        return output.document(&serde_json::json!({ "template": template, "warmup": warmup }));
    }
    output.line(&format!("{name}  version {}  {}", template.version, template.status))?;
    if let Some(digest) = &template.digest {
        output.line(&format!("image   {} {digest}", template.image.as_deref().unwrap_or_default()))?;
    }
    if let Some(warmup) = &warmup {
        let total = warmup.bytes_total.map(|total| format!(" of {}", format_bytes(total))).unwrap_or_default();
        output.line(&format!("warmup  {}, {}{total}", warmup.phase, format_bytes(warmup.bytes_done)))?;
        if let Some(error) = &warmup.error {
            output.line(&format!("error   {}", error.message))?;
        }
    }
    if let Some(pool) = &template.pool {
        let counts =
            format!("{} ready, {} starting ({} to {})", pool.ready, pool.starting, pool.min_ready, pool.max_ready);
        output.line(&format!("pool    {counts}; {} hits, {} misses", pool.hits, pool.misses))?;
        if let Some(problem) = &pool.problem {
            output.line(&format!("        {problem}"))?;
        }
    }
    Ok(())
}
