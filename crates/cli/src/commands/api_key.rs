//! `moat api-key`: who may use the REST API of the node on this machine.
//!
//! It works on the node's file, with the rights of whoever may read it; a running node takes changes over by itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use moat_model::Namespace;
use moat_node::api_keys::{ApiKeys, Scope};
use moat_node::config::NodeConfig;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, age, now};

/// What about keys.
#[derive(Debug, Subcommand)]
pub enum ApiKeyCommand {
    /// Make a key and print it: the only time it is shown
    Create(CreateArgs),
    /// List keys
    List(Place),
    /// Revoke keys
    Revoke(RevokeArgs),
}

/// Whose file.
#[derive(Debug, Args)]
pub struct Place {
    /// Configuration of the node
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory of the node [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// For whom.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    place: Place,
    /// Everything: all namespaces, templates and images
    #[arg(long, conflicts_with = "for_namespace")]
    admin: bool,
    /// Sandboxes and snapshots of this namespace
    #[arg(long, value_name = "NAME", required_unless_present = "admin")]
    for_namespace: Option<Namespace>,
    /// For people: whose key it is
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

/// Which.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    place: Place,
    /// Ids, as listed
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

impl Place {
    fn open(&self) -> Result<ApiKeys, Failure> {
        let mut config = match &self.config {
            Some(path) => NodeConfig::load(path)?,
            None => NodeConfig::default(),
        };
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        Ok(ApiKeys::open(&config.data_dir.join("api-keys.json"))?)
    }
}

/// Does what was asked.
pub fn run(_global: &Global, output: &Output, command: &ApiKeyCommand) -> Result<(), Failure> {
    match command {
        ApiKeyCommand::Create(args) => create(output, args),
        ApiKeyCommand::List(place) => {
            let keys = place.open()?.list()?;
            if output.json {
                return output.document(&keys);
            }
            let rows = keys.into_iter().map(|key| {
                let scope = match key.scope {
                    Scope::Admin => "admin".to_owned(),
                    Scope::Namespace { namespace } => namespace.to_string(),
                };
                [key.id, scope, age(key.created_at, now()), key.note]
            });
            output.table(["ID", "MAY USE", "AGE", "NOTE"], rows.collect())
        }
        ApiKeyCommand::Revoke(args) => {
            let keys = args.place.open()?;
            for id in &args.ids {
                keys.revoke(id)?;
                if output.json { output.record(&serde_json::json!({ "id": id }))? } else { output.line(id)? }
            }
            Ok(())
        }
    }
}

fn create(output: &Output, args: &CreateArgs) -> Result<(), Failure> {
    let scope = match &args.for_namespace {
        Some(namespace) => Scope::Namespace { namespace: namespace.clone() },
        None => Scope::Admin,
    };
    let (key, secret) = args.place.open()?.create(scope, &args.note)?;
    if output.json {
        return output.document(&serde_json::json!({ "key": key, "secret": secret }));
    }
    output.note("this is the only time the key is shown; from now on every request needs one");
    output.line(&secret)
}
