//! `moat network`: the network of a node, and what would be reached from it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use moat_api::client::rest::RestClient;
use moat_api::rest::network::{NetworkTest, NetworkWish, NodeNetwork, TestNetwork};
use owo_colors::Style;

use crate::args::Global;
use crate::failure::Failure;
use crate::network::{self, NetworkArgs, shown};
use crate::output::Output;
use crate::{complete, rest};

/// A test that was made, and in which something would not be reached.
const SOME_DENIED: u8 = 1;

/// What about it.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Show the node's network, and who is attached
    Show,
    /// Ask whether destinations would be reached, and which rule says so; nothing is sent
    Test(TestArgs),
}

/// From where, where to, and what if.
#[derive(Debug, Args)]
#[command(
    override_usage = "moat network test [OPTIONS] [SANDBOX] <DESTINATION>...",
    after_help = "Exits with 0 if all would be reached, with 1 if some would not.\n\
        With options below Network it is asked what if: over those the sandbox has, or without a sandbox over none."
)]
pub struct TestArgs {
    /// Sandbox id, if the first begins with sb-; then destinations: NAME, ADDRESS, NAME:PORT, ADDRESS:PORT, or one of
    /// these after tcp://, udp:// or icmp://
    #[arg(required = true, value_name = "[SANDBOX] DESTINATION", add = ArgValueCandidates::new(complete::sandboxes))]
    words: Vec<String>,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: NetworkCommand) -> Result<ExitCode, Failure> {
    match command {
        NetworkCommand::Show => {
            let network = rest::client(global)?.network().await?;
            if output.json {
                output.document(&network)?
            } else {
                show(output, &network)?
            }
            Ok(ExitCode::SUCCESS)
        }
        NetworkCommand::Test(args) => test(global, output, &args).await,
    }
}

fn show(output: &Output, network: &NodeNetwork) -> Result<(), Failure> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    if !network.enabled {
        let why = network.problem.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        return output.line(&format!("sandboxes have loopback only{why}"));
    }
    output.line(&format!("subnet      {}", or_dash(&network.subnet)))?;
    output.line(&format!("gateway     {}", network.gateway.map_or_else(|| "-".to_owned(), |a| a.to_string())))?;
    output.line(&format!("domain      {}", or_dash(&network.domain)))?;
    output.line(&format!("upstreams   {}", network.upstreams.join(" ")))?;
    output.line(&format!("proxy       {}", or_dash(&network.proxy)))?;
    output.line(&format!("places      {} taken, {} ready", network.attached, network.ready))?;
    shown::refused(output, &network.refused)?;
    if network.sandboxes.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let rows = network
        .sandboxes
        .iter()
        .map(|sandbox| [sandbox.id.clone(), sandbox.mode.clone(), sandbox.address.to_string(), or_dash(&sandbox.name)]);
    output.table(["ID", "MODE", "ADDRESS", "NAME"], rows.collect())
}

async fn test(global: &Global, output: &Output, args: &TestArgs) -> Result<ExitCode, Failure> {
    let (sandbox, destinations) = split(&args.words)?;
    let client = rest::client(global)?;
    let tested = ask(&client, sandbox, destinations.to_vec(), &args.network).await?;
    if output.json {
        output.document(&tested)?;
    } else {
        told(output, &tested)?;
    }
    let all = tested.results.iter().all(|result| result.allowed);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(SOME_DENIED) })
}

/// The first word is a sandbox if it can be one and is not alone: a sandbox's id is also a name that may be asked about.
fn split(words: &[String]) -> Result<(Option<&str>, &[String]), Failure> {
    match words {
        [first, rest @ ..] if first.starts_with("sb-") && !first.contains([':', '.']) => {
            if rest.is_empty() {
                return Err(Failure::invalid(format!("{first}: where to?"))
                    .with_hint(format!("for one: moat network test {first} pypi.org:443")));
            }
            Ok((Some(first), rest))
        }
        words => Ok((None, words)),
    }
}

async fn ask(
    client: &RestClient,
    sandbox: Option<&str>,
    destinations: Vec<String>,
    args: &NetworkArgs,
) -> Result<NetworkTest, Failure> {
    let wish = |options| Some(NetworkWish::Options(Box::new(options)));
    let Some(sandbox) = sandbox else {
        let Some(options) = args.wish() else {
            return Err(Failure::invalid("from where? Name a sandbox, or say what network it would have")
                .with_hint("for one: moat network test --network internet --deny '*.org' pypi.org:443"));
        };
        return Ok(client.test_network(&TestNetwork { network: wish(options), destinations }).await?);
    };
    let id = rest::sandbox_id(client, sandbox).await?;
    let network = match args.is_given() {
        true => wish(args.over(network::asked_for(client.sandbox_network(&id).await?))),
        false => None,
    };
    Ok(client.test_sandbox_network(&id, &TestNetwork { network, destinations }).await?)
}

fn told(output: &Output, tested: &NetworkTest) -> Result<(), Failure> {
    let rows = tested.results.iter().map(|result| {
        let verdict = match result.allowed {
            true => output.styled("allowed", Style::new().green()),
            false => output.styled("denied", Style::new().red()),
        };
        let by = match result.rule {
            Some(rule) => format!("{} {rule}", result.by),
            None => result.by.clone(),
        };
        let address = result.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        [result.destination.clone(), address, verdict, by, result.why.clone()]
    });
    output.table(["DESTINATION", "ADDRESS", "VERDICT", "BY", "WHY"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_may_be_a_sandbox() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let of = |text: &str| {
            let words = words(text);
            split(&words).map(|(sandbox, rest)| (sandbox.map(str::to_owned), rest.len())).ok()
        };
        assert_eq!(of("sb-01 pypi.org:443 1.1.1.1"), Some((Some("sb-01".to_owned()), 2)));
        assert_eq!(of("pypi.org:443 sb-01"), Some((None, 2)));
        assert_eq!(of("sb-01:80"), Some((None, 1)));
        assert_eq!(of("sb-01.moat.internal"), Some((None, 1)));
        assert_eq!(of("sb-01"), None);
    }
}
