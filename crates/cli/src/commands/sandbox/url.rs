//! `moat sandbox url`: where a port of one is reached through the node's reverse proxy.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::sandbox::ProxyAccess;
use moat_model::ErrorKind;
use serde_json::json;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::{complete, rest};

/// Of which port.
#[derive(Debug, Args)]
#[command(after_help = "The first line is the URL, the second the header that goes along, if one is needed: \
    curl -H \"$(moat sandbox url ID 80 | tail -1)\" \"$(moat sandbox url ID 80 | head -1)\"")]
pub struct UrlArgs {
    /// Sandbox id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    sandbox: String,
    /// Port of a program inside that speaks HTTP
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// One URL with the token in it, for a browser: the first answer turns the token into a cookie
    #[arg(long)]
    with_token: bool,
}

/// Prints it.
pub async fn run(global: &Global, output: &Output, args: &UrlArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    let Some(access) = client.sandbox(&id).await?.proxy else {
        return Err(Failure::new(ErrorKind::Unsupported, format!("{id} has no URL: the node runs no reverse proxy"))
            .with_hint("its operator sets [proxy] listen; a published port (--publish) needs none"));
    };
    let url = url_of(&access, args.port);
    if output.json {
        return output.document(&json!({ "url": url, "token": access.token, "public": access.public }));
    }
    if args.with_token && !access.public {
        return output.line(&format!("{url}?moat_token={}", access.token));
    }
    output.line(&url)?;
    if access.public || args.with_token { Ok(()) } else { output.line(&format!("Moat-Token: {}", access.token)) }
}

/// The URL of the root of what answers there.
fn url_of(access: &ProxyAccess, port: u16) -> String {
    let url = access.url_template.replace("{port}", &port.to_string());
    if url.ends_with('/') { url } else { format!("{url}/") }
}
