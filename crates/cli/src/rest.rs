//! From options, environment and a running `moat up` to a client of the REST API.

use std::time::Duration;

use moat_api::client::rest::{DEFAULT_URL, RestClient, RestOptions};
use moat_api::rest::sandbox::ListSandboxes;
use moat_model::{ErrorKind, Namespace, SandboxId};

use crate::args::Global;
use crate::credentials;
use crate::failure::Failure;

/// A machine under load answers late; the time-out of NATS requests is short because silence is an answer there.
const QUICK_AT_LEAST: Duration = Duration::from_secs(15);
/// Sandboxes looked through for the beginning of an id.
const LOOKED_THROUGH_MAX: usize = 10_000;

/// `--url` and `MOAT_URL` win over a running `moat up`, that over the default.
pub fn client(global: &Global) -> Result<RestClient, Failure> {
    client_for(global, &global.namespace)
}

/// The same for a namespace that something else than an option names: a job file.
pub fn client_for(global: &Global, namespace: &Namespace) -> Result<RestClient, Failure> {
    let options = RestOptions {
        url: url(global.url.clone()),
        api_key: global.api_key.clone(),
        // Without a word of the user's the key's own namespace counts.
        namespace: (*namespace != Namespace::default_namespace()).then(|| namespace.clone()),
        connect: global.timeout,
        quick: global.timeout.max(QUICK_AT_LEAST),
        ..RestOptions::default()
    };
    Ok(RestClient::new(options)?)
}

/// Where the API is.
pub fn url(given: Option<String>) -> String {
    given.or_else(|| credentials::find()?.api).unwrap_or_else(|| DEFAULT_URL.to_owned())
}

/// A whole id from a whole one or the beginning of one.
pub async fn sandbox_id(client: &RestClient, text: &str) -> Result<String, Failure> {
    if SandboxId::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let wanted = if text.starts_with("sb-") { text.to_owned() } else { format!("sb-{text}") };
    let found: Vec<String> = all(client, ListSandboxes::default())
        .await?
        .into_iter()
        .map(|s| s.id)
        .filter(|id| id.starts_with(&wanted))
        .collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::new(ErrorKind::NotFound, format!("no sandbox that lives has an id beginning with {text}"))
            .with_hint("`moat sandbox ls` lists them; one that has ended needs its whole id")),
        several => {
            let names = several.join(", ");
            Err(Failure::new(ErrorKind::Conflict, format!("{text} is the beginning of several ids: {names}")))
        }
    }
}

/// Every page of a list.
pub async fn all(
    client: &RestClient,
    mut query: ListSandboxes,
) -> Result<Vec<moat_api::rest::sandbox::Sandbox>, Failure> {
    let mut sandboxes = Vec::new();
    query.limit = Some(1000);
    loop {
        let page = client.sandboxes(&query).await?;
        sandboxes.extend(page.sandboxes);
        if page.next.is_none() || sandboxes.len() >= LOOKED_THROUGH_MAX {
            return Ok(sandboxes);
        }
        query.after = page.next;
    }
}
