//! `moat lameduck`.

use clap::Args;

use super::node::resolve;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::session;

/// Which node.
#[derive(Debug, Args)]
pub struct LameduckArgs {
    /// Node id, the beginning of one, or a node's name
    node: String,
}

/// Puts it into lame duck mode.
pub async fn run(global: &Global, output: &Output, args: &LameduckArgs) -> Result<(), Failure> {
    let client = session::client(global).await?;
    let node = resolve(&client, &args.node).await?;
    let reply = client.lameduck(&node).await?;
    if !reply.success {
        return Err(Failure::internal("put the node into lame duck mode", "it says that it did not"));
    }
    if output.json {
        return output.document(&reply);
    }
    output.line(&format!("{} takes no new workloads; those it runs stay", reply.node_id))
}
